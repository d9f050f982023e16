"""Published diffusion models: the network's folder and the scheduler's, as diffusers'.

Two layouts are read: `config.json`, the weights and `scheduler_config.json` in one
folder (`google/ddpm-cifar10-32`), and a pipeline of the folders `unet` and `scheduler`.
The first is written.
"""

import dataclasses
import math

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
# How a network was trained.
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

# How it is sampled: the classes, and the keys of their steps.
OFFSET = _keys.Kind("an integer of at least 0", lambda n: n == 0 or _keys.COUNT.fits(n))
SPACED = {
    "timestep_spacing": ("leading", _choice("leading", "trailing", "linspace")),
    "steps_offset": (0, OFFSET),
}
EVENLY = {**SPACED, "timestep_spacing": ("linspace", SPACED["timestep_spacing"][1])}
YES_OR_NO = _keys.FLAG | _keys.NULL
KARRAS = {
    **EVENLY,
    "use_karras_sigmas": (False, YES_OR_NO),
    "use_exponential_sigmas": (False, YES_OR_NO),
    "use_beta_sigmas": (False, _choice(False, None)),
}
BOUNDS = {"sigma_min": (None, _choice(None)), "sigma_max": (None, _choice(None))}
ENDED = {"final_sigmas_type": ("zero", _choice("zero", "sigma_min"))}
WHOLLY = {"set_alpha_to_one": (True, _keys.FLAG)}
SOLVER = {
    **KARRAS,
    **ENDED,
    "use_exponential_sigmas": (False, _choice(False, None)),
    "solver_order": (2, _choice(1, 2)),
    "lower_order_final": (True, _choice(True)),
}
SAMPLED = {
    "DDPMScheduler": SPACED,
    "DDIMScheduler": {**SPACED, **WHOLLY},
    "PNDMScheduler": {
        **SPACED,
        "set_alpha_to_one": (False, _keys.FLAG),
        "skip_prk_steps": (False, _keys.FLAG),
    },
    "LMSDiscreteScheduler": KARRAS,
    "EulerDiscreteScheduler": {
        **KARRAS,
        **BOUNDS,
        **ENDED,
        "interpolation_type": ("linear", _choice("linear")),
    },
    "EulerAncestralDiscreteScheduler": EVENLY,
    "HeunDiscreteScheduler": KARRAS,
    "DPMSolverMultistepScheduler": {
        **SOLVER,
        "algorithm_type": ("dpmsolver++", _choice("dpmsolver++", "sde-dpmsolver++")),
        "solver_type": ("midpoint", _choice("midpoint")),
        "euler_at_final": (False, _choice(False)),
        "use_lu_lambdas": (False, _choice(False)),
        "lambda_min_clipped": (-math.inf, _choice(-math.inf)),
    },
    "UniPCMultistepScheduler": {
        **SOLVER,
        **BOUNDS,
        "solver_order": (2, _choice(2)),
        "solver_type": ("bh2", _choice("bh2")),
        "predict_x0": (True, _choice(True)),
        "disable_corrector": ([], _keys.Kind("empty", lambda v: v in ([], ()))),
        "solver_p": (None, _choice(None)),
    },
}
SAMPLERS = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "LMSDiscreteScheduler": "lms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
}
MULTISTEP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
ROUNDED = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", *MULTISTEP)
# What a scheduler's class decides of a model, beside the schedule.
SETTINGS = (
    "sampler",
    "sampler_options",
    "spacing",
    "round_times",
    "num_steps",
    "variance",
    "clip",
)
OWN = "_keras_genai"  # what a class of diffusers cannot say; it passes over such a key


def from_config(config, path=SCHEDULER, sampler=None):
    """The arguments of `DDPM` of a scheduler's configuration; `schedule` those of its.

    Args:
        config: the content of `scheduler_config.json`, a dict.
        path: where it came from, for messages.
        sampler: that to sample by; by default the scheduler's own. With another, a way
            of sampling that `DDPM` has not is passed over.

    Raises:
        ValueError: it asks for what `DDPM` has not; names every such key.
    """
    kind = _diffusers.class_of(config, path, *CLASSES)
    own = config.get(OWN) or {}
    if not _keys.OBJECT.fits(own) or not set(own) <= set(SETTINGS):
        raise ValueError(f"{path} holds {OWN}={_keys.short(own)}, which is no setting.")
    config = {k: v for k, v in config.items() if k != OWN}
    trained = _keys.read(config, path, {**COMMON, **CLASSES[kind]}, of="a DDPM")
    name = SCHEDULES[trained["beta_schedule"]]
    ends = () if name == "cosine" else ("beta_start", "beta_end")
    schedule = {
        "name": name,
        "num_train_timesteps": trained["num_train_timesteps"],
        "zero_terminal_snr": trained.get("rescale_betas_zero_snr", False),
        **{key: trained[key] for key in ends},
    }
    clipped = trained.get("clip_sample", False)  # most classes never clip
    arguments = {
        "schedule": schedule,
        "parameterization": PARAMETERIZATIONS[trained["prediction_type"]],
        "variance": VARIANCES.get(trained.get("variance_type"), "small"),
        "clip": trained["clip_sample_range"] if clipped else None,
        **_sampling(kind, config, path, sampler),
        **own,
    }
    if sampler not in (None, arguments["sampler"]):
        arguments |= {"sampler": sampler, "sampler_options": {}}
    return arguments


def _sampling(kind, config, path, sampler):
    """The arguments of `DDPM` that say how a scheduler samples."""
    made = {"sampler": SAMPLERS[kind], "sampler_options": {}, "round_times": False}
    made["num_steps"] = 50
    if kind == "DDPMScheduler":
        made["num_steps"] = config.get("num_train_timesteps", 1000)
    try:
        config = _keys.read(config, path, SAMPLED[kind], of="a sampler of kg.samplers")
    except ValueError as error:
        if sampler not in (None, SAMPLERS[kind]):
            return made
        raise ValueError(
            f"{error} Give sampler= to sample by another, such as 'ddim'."
        ) from None
    if kind == "PNDMScheduler" and not config["skip_prk_steps"]:
        made["sampler_options"] = {"runge_kutta": True}
    if kind == "DPMSolverMultistepScheduler":
        noisy = config["algorithm_type"].startswith("sde")
        if config["solver_order"] == 1:
            made["sampler"] = "ddim"
            made["sampler_options"] = {"eta": 1.0} if noisy else {}
        elif noisy:
            made["sampler"] = "dpmpp_2m_sde"
    karras = bool(config.get("use_karras_sigmas"))
    made["round_times"] = kind in MULTISTEP and karras
    return {**made, "spacing": _spacing(kind, config, karras)}


def _spacing(kind, config, karras):
    """The arguments of `kg.samplers.time_grid` of a scheduler's values."""
    name = config["timestep_spacing"]
    made = {"spacing": name}
    offset = config["steps_offset"] and {"offset": config["steps_offset"]}
    if kind in MULTISTEP and name != "trailing":
        made["skip_last"] = True
    if name == "linspace" and kind in ROUNDED:
        made["rounded"] = True
    if karras or config.get("use_exponential_sigmas"):
        spacing = "karras" if karras else "exponential"
        if kind in MULTISTEP:  # between all noises that there are
            made = {"spacing": spacing}
        else:
            made |= {"spacing": spacing, "between": name}
    if kind not in ROUNDED and name != "leading":
        made["prior"] = "sigma"
    least = config.get("final_sigmas_type") == "sigma_min"
    if least or config.get("set_alpha_to_one") is False:
        made["end"] = "least" if kind in ROUNDED else "least_divided"
    return {**made, **(offset or {})}


def to_config(model):
    """diffusers' `scheduler_config.json` of a model, a dict.

    Its class is that of the model's sampler, where it can say how the network was
    trained, else `DDPMScheduler`. What the class cannot say stands under a key that
    diffusers passes over, so that `from_config` gives the model's own settings.

    Raises:
        ValueError: diffusers has no such scheduler.
    """
    schedule = model.schedule
    predicts = {ours: theirs for theirs, ours in PARAMETERIZATIONS.items()}
    if not isinstance(schedule, model.schedule_class) or (
        model.parameterization not in predicts
    ):
        raise ValueError(
            "diffusers' schedulers have discrete times and predict 'epsilon', 'x0' "
            f"or 'v'; this model has {type(schedule).__name__} and predicts "
            f"{model.parameterization!r}: save it as a .keras file, "
            "model.save('ddpm.keras')."
        )
    wanted = {name: getattr(model, name) for name in SETTINGS}
    if not isinstance(model.sampler, str):  # a function is no setting
        wanted |= {"sampler": "ddim", "sampler_options": {}}
    usual = {"spacing": "lcm" if model.sampler == "lcm" else "trailing"}
    for name, default in (("spacing", usual), ("sampler_options", {})):
        wanted[name] = dict(wanted[name] or default)
    kind = _class_of(model, wanted)
    config = _written(kind, model, wanted)
    read = from_config(config)
    own = {name: value for name, value in wanted.items() if read[name] != value}
    return {**config, OWN: own} if own else config


def _class_of(model, wanted):
    """The class of a sampler, where it can say how the network was trained."""
    classes = {sampler: kind for kind, sampler in SAMPLERS.items()}
    classes["dpmpp_2m_sde"] = "DPMSolverMultistepScheduler"
    kind = classes.get(wanted["sampler"], "DDPMScheduler")
    keys = CLASSES[kind]
    unsaid = (
        (wanted["variance"] != "small" and "variance_type" not in keys)
        or (wanted["variance"] == "large" and kind != "DDPMScheduler")
        or (wanted["clip"] is not None and "clip_sample" not in keys)
        or (model.schedule.zero_terminal_snr and "rescale_betas_zero_snr" not in keys)
        or model.schedule.name == "sigmoid"
    )
    return "DDPMScheduler" if unsaid else kind


def _written(kind, model, wanted):
    """The configuration of a class, with as much as it can say."""
    schedule, spacing = model.schedule, wanted["spacing"]
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    predicts = {ours: theirs for theirs, ours in PARAMETERIZATIONS.items()}
    variances = {"small": "fixed_small", "large": "fixed_large"}
    variances["learned"] = "learned_range"
    keys = {**COMMON, **CLASSES[kind], **SAMPLED[kind]}
    name = spacing.get("spacing", "trailing")
    options = wanted["sampler_options"]
    least = spacing.get("end", "zero") != "zero"
    said = {
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_schedule": names[schedule.name],
        "prediction_type": predicts[model.parameterization],
        "variance_type": variances[wanted["variance"]],
        "clip_sample": wanted["clip"] is not None,
        "clip_sample_range": wanted["clip"] or 1.0,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "timestep_spacing": spacing.get("between", "linspace")
        if name in ("karras", "exponential")
        else name,
        "steps_offset": int(spacing.get("offset", 0)),
        "set_alpha_to_one": not least,
        "final_sigmas_type": "sigma_min" if least else "zero",
        "use_karras_sigmas": name == "karras",
        "use_exponential_sigmas": name == "exponential",
        "skip_prk_steps": not options.get("runge_kutta", False),
        "algorithm_type": "sde-dpmsolver++"
        if wanted["sampler"] == "dpmpp_2m_sde"
        else "dpmsolver++",
        "solver_order": 2,
    }
    if schedule.name != "cosine":
        said |= {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    if kind != "DDPMScheduler" and wanted["variance"] == "small":
        said["variance_type"] = None
    values = {key: said.get(key, default) for key, (default, _) in keys.items()}
    values = {
        key: value if keys[key][1].fits(value) else keys[key][0]
        for key, value in values.items()
    }
    return {
        **values,
        "_class_name": kind,
        "_diffusers_version": _diffusers.VERSION,
        # Another class that is made of this one would clip by default.
        "clip_sample": said["clip_sample"],
        "clip_sample_range": said["clip_sample_range"],
    }


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `DDPM.from_pretrained`."""
    folder = st.fetch(source, subfolder)
    with reading(folder):
        pipeline = (folder / "unet").is_dir()
        path = (folder / "scheduler" if pipeline else folder) / SCHEDULER
        config = from_config(st.read_json(path), path, arguments.get("sampler"))
        config["schedule"] = cls.schedule_class(**config["schedule"])
        place = folder / "unet" if pipeline else folder
        network = unet.load(cls.network_class, place, None, variant)
    # An average is another copy of the network: it is kept where it is asked for.
    own = {**config, "concat_channels": concat_channels(network), "ema_decay": None}
    return cls(network, **{**own, **arguments})


def concat_channels(network):
    """Channels that a network takes beside those of what it denoises, or None."""
    more = network.image_shape[-1] - network.out_channels
    return more if more > 0 else None


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
    kind = scheduler["_class_name"]
    # What samples is the average, where one is kept: that is what is written.
    model.run_averaged(
        "network", lambda: unet.save(model.network, folder, dtype, max_shard_size)
    )
    st.write_json(folder / SCHEDULER, scheduler)
    st.write_json(
        folder / "model_index.json",
        {
            "_class_name": "DDIMPipeline"
            if kind == "DDIMScheduler"
            else "DDPMPipeline",
            "_diffusers_version": _diffusers.VERSION,
            "scheduler": ["diffusers", kind],
            "unet": ["diffusers", unet.class_of(model.network)],
        },
    )
