"""Published diffusion models: the network's folder and the scheduler's, as diffusers'.

Two layouts are read: `config.json`, the weights and `scheduler_config.json` in one
folder (`google/ddpm-cifar10-32`), and a pipeline of the folders `unet` and `scheduler`.
The first is written.
"""

import dataclasses

from keras_genai.utils.files import reading
from keras_genai.weights import _diffusers, _keys, _writing, unet
from keras_genai.weights import _safetensors as st

SCHEDULER = "scheduler_config.json"
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
PARAMETERIZATIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned",
}
MOST_TIMES = 1_000_000  # of which tables are made


def _choice(*values):
    says = f"one of {', '.join(map(repr, values))}"
    return dataclasses.replace(_keys.one_of(*values), says=says)


# The keys of every class, and those that some classes add: an absent key has the
# class's own default, and a key that the class has not is without effect there.
COMMON = {
    "num_train_timesteps": (
        1000,
        _keys.Kind(
            f"an integer from 1 to {MOST_TIMES}",
            lambda n: _keys.COUNT.fits(n) and n <= MOST_TIMES,
        ),
    ),
    "beta_start": (1e-4, _keys.POSITIVE),
    "beta_end": (0.02, _keys.POSITIVE),
    "beta_schedule": ("linear", _choice(*SCHEDULES)),
    "prediction_type": ("epsilon", _choice(*PARAMETERIZATIONS)),
    "trained_betas": (None, _choice(None)),
}
CLIPPED = {
    "clip_sample": (True, _keys.FLAG),
    "clip_sample_range": (1.0, _keys.POSITIVE),
}
RESCALED = {"rescale_betas_zero_snr": (False, _keys.FLAG)}
WHOLE = {"thresholding": (False, _choice(False))}
STRAIGHT = {"use_flow_sigmas": (False, _choice(False))}
VARIANCE = {"variance_type": ("fixed_small", _choice(*VARIANCES))}
# The classes whose configuration says how a network was trained; any of our samplers
# then samples it.
CLASSES = {
    "DDPMScheduler": {**CLIPPED, **RESCALED, **WHOLE, **VARIANCE},
    "DDIMScheduler": {**CLIPPED, **RESCALED, **WHOLE},
    "PNDMScheduler": {},
    "LMSDiscreteScheduler": {},
    "EulerDiscreteScheduler": {
        **RESCALED,
        "timestep_type": ("discrete", _choice("discrete")),
    },
    "EulerAncestralDiscreteScheduler": RESCALED,
    "HeunDiscreteScheduler": {
        **CLIPPED,
        "clip_sample": (False, _keys.FLAG),
        "beta_start": (0.00085, _keys.POSITIVE),
        "beta_end": (0.012, _keys.POSITIVE),
    },
    "DPMSolverMultistepScheduler": {
        **RESCALED,
        **WHOLE,
        **STRAIGHT,
        "variance_type": (None, _choice(None, "learned_range")),
    },
    "UniPCMultistepScheduler": {**RESCALED, **WHOLE, **STRAIGHT},
}


def from_config(config, path=SCHEDULER):
    """The arguments of `DDPM` of a scheduler's configuration; `schedule` those of its.

    Args:
        config: the content of `scheduler_config.json`, a dict.
        path: where it came from, for messages.

    Raises:
        ValueError: it asks for what `DDPM` has not; names every such key.
    """
    kind = _diffusers.class_of(config, path, *CLASSES)
    config = _keys.read(config, path, {**COMMON, **CLASSES[kind]}, of="a DDPM")
    name = SCHEDULES[config["beta_schedule"]]
    ends = () if name == "cosine" else ("beta_start", "beta_end")
    schedule = {
        "name": name,
        "num_train_timesteps": config["num_train_timesteps"],
        "zero_terminal_snr": config.get("rescale_betas_zero_snr", False),
        **{key: config[key] for key in ends},
    }
    clipped = config.get("clip_sample", False)  # most classes never clip
    return {
        "schedule": schedule,
        "parameterization": PARAMETERIZATIONS[config["prediction_type"]],
        "variance": VARIANCES.get(config.get("variance_type"), "small"),
        "clip": config["clip_sample_range"] if clipped else None,
    }


def to_config(model):
    """diffusers' `scheduler_config.json` of a model, a dict.

    Raises:
        ValueError: diffusers has no such scheduler.
    """
    schedule = model.schedule
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    predicts = {ours: theirs for theirs, ours in PARAMETERIZATIONS.items()}
    if not isinstance(schedule, model.schedule_class) or (
        model.parameterization not in predicts
    ):
        raise ValueError(
            "diffusers' DDPMScheduler has discrete times and predicts 'epsilon', 'x0' "
            f"or 'v'; this model has {type(schedule).__name__} and predicts "
            f"{model.parameterization!r}: save it as a .keras file, "
            "model.save('ddpm.keras')."
        )
    variances = {"small": "fixed_small", "large": "fixed_large"}
    written = {**COMMON, **CLASSES["DDPMScheduler"]}
    config = {
        **{key: default for key, (default, _) in written.items()},
        "_class_name": "DDPMScheduler",
        "_diffusers_version": _diffusers.VERSION,
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_schedule": names[schedule.name],
        "prediction_type": predicts[model.parameterization],
        "variance_type": variances.get(model.variance, "learned_range"),
        "clip_sample": model.clip is not None,
        "clip_sample_range": model.clip or 1.0,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }
    if schedule.name != "cosine":
        config |= {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    return config


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `DDPM.from_pretrained`."""
    folder = st.fetch(source, subfolder)
    with reading(folder):
        pipeline = (folder / "unet").is_dir()
        path = (folder / "scheduler" if pipeline else folder) / SCHEDULER
        config = from_config(st.read_json(path), path)
        config["schedule"] = cls.schedule_class(**config["schedule"])
        place = folder / "unet" if pipeline else folder
        network = unet.load(cls.network_class, place, None, variant)
    return cls(network, **{**config, **arguments})


@_writing.saved_whole
def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes the folder of `google/ddpm-cifar10-32`'s layout."""
    if not isinstance(model.network, model.network_class):
        known, network = model.network_class.__name__, type(model.network).__name__
        raise ValueError(
            f"This layout holds a kg.{known}; this model's network is a {network}. "
            "Save it as a .keras file, model.save('ddpm.keras')."
        )
    scheduler = to_config(model)
    # What samples is the average, where one is kept: that is what is written.
    model.run_averaged(
        "network", lambda: unet.save(model.network, folder, dtype, max_shard_size)
    )
    st.write_json(folder / SCHEDULER, scheduler)
    st.write_json(
        folder / "model_index.json",
        {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": _diffusers.VERSION,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", unet.class_of(model.network)],
        },
    )
