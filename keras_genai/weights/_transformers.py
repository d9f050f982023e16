"""What the families stored by Hugging Face's transformers have in common.

A model's folder: `config.json` beside `model.safetensors` (or its shards and their
index). Its `architectures` name the class that wrote it, and with it the heads that
the file must hold.
"""

import pathlib

from keras_genai.utils.files import reading
from keras_genai.weights import _keys, _writing
from keras_genai.weights import _safetensors as st

STEM = "model"
VERSION = "5.0.0"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def class_of(config, path, *names):
    """The class that wrote a folder, by default the first of the names.

    Raises:
        ValueError: it is none of the names.
    """
    named = config.get("architectures") or [names[0]]
    if not _keys.list_of(_keys.TEXT).fits(named):
        says = "architectures must be a list of strings"
        _keys.refuse(path, [f"{says}; it is {_keys.short(named)}"])
    for name in named:
        if name in names:
            return name
    known = " or ".join(names)
    raise ValueError(f"{path} is the configuration of {named[0]}, not {known}.")


def labels(config):
    """The number of a classifier's classes: 2 where nothing is said."""
    if config["id2label"] is not None:
        return len(config["id2label"])
    return config["num_labels"] or 2


def tokenizer_of(cls, folder, files):
    """The tokenizer that is in a folder, or None.

    Args:
        cls: class of the model; its `tokenizer_class` reads the folder.
        folder: path.
        files: names, one of which a folder with a tokenizer has.
    """
    if any((folder / name).is_file() for name in files):
        return cls.tokenizer_class.load(folder)
    return None


def find(folder, variant=None):
    """The weights' file of a folder; a pickle is refused with the way to convert it."""
    folder = pathlib.Path(folder)
    if not list(folder.glob("*.safetensors*")):
        for name in PICKLES:
            if (folder / name).is_file():
                st.refuse_pickle(folder / PICKLES[0], f"{STEM}.safetensors")
    return st.find_weights(folder, STEM, variant)


def load(make, table, source, subfolder=None, variant=None, ignored=None):
    """A model of a published folder.

    Args:
        make: function (configuration, its path, tensors) -> model. The tensors are a
            dict name -> (shape, dtype).
        table: function (model, tensors) -> list of `Entry`.
        source: a folder, or an id of the Hugging Face hub, `"owner/name"`.
        subfolder: folder within it.
        variant: `"fp16"` for `model.fp16.safetensors`.
        ignored: see `_safetensors.load`.
    """
    folder = st.fetch(source, subfolder, ("*.json", "*.safetensors", "*.txt", "*.spm"))
    config = folder / "config.json"
    with reading(folder):
        weights = find(folder, variant)
        content = st.read_json(config)
        return st.load_model(
            lambda kinds: make(content, config, kinds), table, weights, ignored, config
        )


def save(table, config, folder, dtype="float32", max_shard_size=None):
    """Writes a model's folder.

    Args:
        table: list of `Entry`.
        config: transformers' configuration, a dict.
        folder: it is made; `config.json` and the weights in it are replaced.
        dtype: of the weights' file.
        max_shard_size: see `_writing.save`.
    """
    settings = {"transformers_version": VERSION, "dtype": dtype, **config}
    stale = ["generation_config.json"]  # of another model's tokens
    _writing.save_folder(table, settings, folder, STEM, dtype, max_shard_size, stale)
