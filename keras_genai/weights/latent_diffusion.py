"""Published text-to-image models: a pipeline's folder, as diffusers stores it.

`model_index.json` names the parts, each a folder: `vae`, `unet`, `text_encoder`,
`tokenizer` and `scheduler`, of Stable Diffusion 1.x and 2.x.
"""

import pathlib
import warnings

from keras_genai.utils.files import reading, written_into
from keras_genai.weights import (
    _diffusers,
    _transformers,
    _writing,
    autoencoder_kl,
    clip,
    ddpm,
    unet,
)
from keras_genai.weights import _safetensors as st

INDEX = "model_index.json"
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionImg2ImgPipeline",
)
# Part -> (the class that this package reads, the stem of its weights or None).
PARTS = {
    "vae": ("AutoencoderKL", _diffusers.STEM),
    "unet": ("UNet2DConditionModel", _diffusers.STEM),
    "text_encoder": ("CLIPTextModel", _transformers.STEM),
    "tokenizer": ("CLIPTokenizer", None),
    "scheduler": (None, None),
}
# Nothing here looks at what is drawn, or at a picture as a prompt.
PASSED = ("safety_checker", "feature_extractor", "image_encoder")
PATTERNS = (
    INDEX,
    *(f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt")),
    *(f"{part}/*.safetensors" for part, (_, stem) in PARTS.items() if stem),
)


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a pipeline's folder; see `LatentDiffusion.from_pretrained`."""
    _refuse_file(pathlib.Path(source))
    folder = st.fetch(source, subfolder, PATTERNS)
    with reading(folder):
        parts = _parts(folder, arguments)
        _check_variant(folder, parts, variant)
        dtype = {"dtype": arguments["dtype"]} if "dtype" in arguments else {}
        if "autoencoder" not in arguments:
            arguments["autoencoder"] = autoencoder_kl.load(
                cls.autoencoder_class, folder / "vae", None, variant, **dtype
            )
        if "network" not in arguments:
            arguments["network"] = unet.load(
                cls.network_class, folder / "unet", None, variant, **dtype
            )
        if "text_encoder" not in arguments:
            arguments["text_encoder"] = clip.load(
                cls.text_encoder_class, folder / "text_encoder", None, variant, **dtype
            )
        if "tokenizer" not in arguments:
            arguments["tokenizer"] = (
                cls.tokenizer_class.load(folder / "tokenizer")
                if "tokenizer" in parts
                else None
            )
        path = folder / "scheduler" / ddpm.SCHEDULER
        sampler = arguments.get("sampler")
        config = ddpm.from_config(st.read_json(path), path, sampler)
    config["schedule"] = cls.schedule_class(**config["schedule"])
    # An average is a second copy of the network: it is kept where it is asked for.
    joined = ddpm.concat_channels(arguments["network"])
    own = {**config, "concat_channels": joined, "ema_decay": None}
    return cls(**{**own, **arguments})


def _refuse_file(path):
    """A whole pipeline in one file: refused, with the way to make a folder of it."""
    convert = (
        "Convert it once where diffusers is installed: StableDiffusionPipeline."
        f"from_single_file({str(path)!r}).save_pretrained('folder')"
    )
    if path.suffix in st.PICKLES and (path.is_file() or path.suffix == ".ckpt"):
        raise ValueError(
            f"{path} is a pickle: to read it is to run what is in it, so it is not "
            f"read here. {convert}, if the file is trusted."
        )
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path} is one file of the original layout; folders in diffusers' layout "
            f"are read. {convert}."
        )


def _parts(folder, given):
    """The names of the parts to read, of those that the index names.

    Raises:
        ValueError: it is another pipeline's folder, or parts are missing: lists them.
    """
    path = folder / INDEX
    if not path.is_file():
        there = sorted(p.name for p in folder.iterdir())
        raise ValueError(
            f"There is no {INDEX} in {folder}, which names a pipeline's parts; there "
            f"is: {', '.join(there) or 'nothing'}. A part alone is read by its own "
            "class: kg.UNet, kg.AutoencoderKL, kg.clip.TextTower."
        )
    index = st.read_json(path)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(
            f"{path} is of {kind}; LatentDiffusion reads {', '.join(PIPELINES)}."
        )
    named, wrong = {}, []
    for part, (known, _) in PARTS.items():
        entry = index.get(part)
        absent = not isinstance(entry, (list, tuple)) or len(entry) != 2 or not entry[1]
        if not absent and known not in (None, entry[1], f"{entry[1]}Fast"):
            if entry[1] != f"{known}Fast":
                wrong.append(f"{part} is a {entry[1]}, not a {known}")
        named[part] = not absent
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}.")
    ours = {"vae": "autoencoder", "unet": "network"}
    read = [part for part in PARTS if ours.get(part, part) not in given]
    missing = [
        part
        for part in read
        if not (folder / part).is_dir() and (named[part] or part != "tokenizer")
    ]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}, parts of a pipeline that {INDEX} "
            "names or that it needs. Was it copied whole?"
        )
    passed = [p for p in PASSED if isinstance(index.get(p), list) and index[p][1]]
    if passed:
        warnings.warn(
            f"{folder}: {' and '.join(passed)} "
            f"{'are' if len(passed) > 1 else 'is'} passed over: nothing looks at the "
            "pictures that are drawn.",
            stacklevel=5,
        )
    return [part for part in read if (folder / part).is_dir()]


def _check_variant(folder, parts, variant):
    """Refuses a variant that a part has not, and lists those that it has."""
    if variant is None:
        return
    for part in parts:
        stem = PARTS[part][1]
        if stem is None:
            continue
        found = set()
        for path in (folder / part).glob(f"{stem}*.safetensors*"):
            middle = path.name[len(stem) :].partition(".safetensors")
            found.add(middle[0].partition("-0")[0].strip("."))
            found.add(middle[2].removeprefix(".index").removesuffix(".json").strip("."))
        if variant not in found:
            others = sorted(found - {""})
            raise ValueError(
                f"{folder / part} has no variant {variant!r}; it has "
                + (f"{', '.join(map(repr, others))} and " if others else "")
                + "the weights without one (variant=None)."
            )


# Writing


def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes a pipeline's folder; see `LatentDiffusion.save_pretrained`."""
    _check_written(model)
    _writing.check_dtype(dtype)
    scheduler = ddpm.to_config(model)
    with written_into(_writing.check_folder(folder), INDEX) as beside:
        _save(model, beside, scheduler, dtype, max_shard_size)


def _save(model, folder, scheduler, dtype, max_shard_size):
    how = {"dtype": dtype, "max_shard_size": max_shard_size}
    autoencoder_kl.save(model.autoencoder, folder / "vae", **how)
    # What samples is the average, where one is kept: that is what is written.
    model.run_averaged(
        "network", lambda: unet.save(model.network, folder / "unet", **how)
    )
    model.run_averaged(
        "network", lambda: clip.save(model.text_encoder, folder / "text_encoder", **how)
    )
    if model.tokenizer is not None:
        model.tokenizer.save(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    st.write_json(folder / "scheduler" / ddpm.SCHEDULER, scheduler)
    channels = model.network.image_shape[-1]
    inpaints = channels > model.network.out_channels
    st.write_json(
        folder / INDEX,
        {
            "_class_name": PIPELINES[1 if inpaints else 0],
            "_diffusers_version": _diffusers.VERSION,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "text_encoder": ["transformers", PARTS["text_encoder"][0]],
            "tokenizer": ["transformers", PARTS["tokenizer"][0]]
            if model.tokenizer is not None
            else [None, None],
            "unet": ["diffusers", unet.class_of(model.network)],
            "vae": ["diffusers", PARTS["vae"][0]],
        },
    )


def _check_written(model):
    """Refuses parts that diffusers' pipeline has not."""
    wrong = []
    for name, cls in (
        ("autoencoder", model.autoencoder_class),
        ("network", model.network_class),
        ("text_encoder", model.text_encoder_class),
    ):
        part = getattr(model, name)
        if not isinstance(part, cls):
            wrong.append(f"its {name} is a {type(part).__name__}, not a {cls.__name__}")
    if not wrong and (model.clip_skip or not model.text_norm):
        wrong.append(
            f"it leaves out {model.clip_skip} of the text encoder's blocks, or its "
            "last normalization, which the files do not say"
        )
    own = model.autoencoder
    if not wrong and (model.scaling_factor, model.shift_factor) != (
        own.scaling_factor,
        own.shift_factor,
    ):
        wrong.append(
            f"its scaling_factor and shift_factor, {model.scaling_factor} and "
            f"{model.shift_factor}, are not the autoencoder's"
        )
    if wrong:
        raise ValueError(
            f"diffusers' pipeline is not this model: {'; '.join(wrong)}. Save it as a "
            ".keras file, model.save('model.keras')."
        )
