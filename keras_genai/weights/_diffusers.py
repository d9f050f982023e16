"""What the families stored by diffusers have in common.

The names of the layers of its image blocks, the check of a configuration, and a model's
folder: `config.json` beside `diffusion_pytorch_model.safetensors`.
"""

from keras_genai.utils.files import reading
from keras_genai.weights import _keys, _table, _writing
from keras_genai.weights import _safetensors as st

STEM = "diffusion_pytorch_model"
VERSION = "0.42.0"
ATTENTION = {  # name of a matrix -> its name in the first files, and our layer's
    "to_q": ("query", "query"),
    "to_k": ("key", "key"),
    "to_v": ("value", "value"),
    "to_out.0": ("proj_attn", "out"),
}


class Table(_table.Table):
    """The entries of a network with diffusers' image blocks."""

    def convolution(self, name, layer):
        self.add(st.convolution, f"{name}.weight", layer.kernel)
        self.vector(f"{name}.bias", layer.bias)

    def resnet(self, name, block):
        """A `ResNetBlock`."""
        self.affine(f"{name}.norm1", block.norm1)
        self.convolution(f"{name}.conv1", block.conv1)
        if block.embed is not None:
            self.dense(f"{name}.time_emb_proj", block.embed)
        self.affine(f"{name}.norm2", block.norm2)
        self.convolution(f"{name}.conv2", block.conv2)
        if block.shortcut is not None:
            self.convolution(f"{name}.conv_shortcut", block.shortcut)

    def attention(self, name, block):
        """The four matrices of a `SelfAttention2D` or an `Attention`."""
        for new, (old, own) in ATTENTION.items():
            self.dense(f"{name}.{new}", getattr(block, own), old=f"{name}.{old}")

    def attention_2d(self, name, block):
        """A `SelfAttention2D`."""
        self.affine(f"{name}.group_norm", block.norm)
        self.attention(name, block)

    def cross_attention_2d(self, name, block, pointwise):
        """A `CrossAttention2D`; pointwise: its two ends are 1 x 1 convolutions."""
        make = st.pointwise if pointwise else st.dense
        self.affine(f"{name}.norm", block.norm)
        self.dense(f"{name}.proj_in", block.inward, make=make)
        for i, part in enumerate(block.blocks):
            place = f"{name}.transformer_blocks.{i}"
            self.affine(f"{place}.norm1", part.norm1)
            self.affine(f"{place}.norm2", part.norm_cross)
            self.affine(f"{place}.norm3", part.norm2)
            self.attention(f"{place}.attn1", part.self_attention)
            self.attention(f"{place}.attn2", part.cross_attention)
            self.dense(f"{place}.ff.net.0.proj", part.feed_forward.dense1)
            self.dense(f"{place}.ff.net.2", part.feed_forward.dense2)
        self.dense(f"{name}.proj_out", block.out, make=make)


def class_of(config, path, *names):
    """The class that a configuration is of, by default the first of the names.

    Raises:
        ValueError: it is none of the names.
    """
    name = config.get("_class_name", names[0])
    if name not in names:
        known = " or ".join(names)
        raise ValueError(f"{path} is the configuration of {name}, not {known}.")
    return name


def check_values(config, path, wanted):
    """Refuses values that do not fit each other.

    Args:
        config: dict of all keys' values.
        path: where it came from, for messages.
        wanted: dict key -> the only value that the network has for it.

    Raises:
        ValueError: names every key that has another value.
    """
    wrong = []
    for key, value in wanted.items():
        got = config[key]
        if (list(got) if isinstance(got, tuple) else got) != value:
            wrong.append(f"{key} must be {value!r}; it is {_keys.short(got)}")
    _keys.refuse(path, wrong)


# The side of an image: networks without a table of positions do not bound it.
SIDE = _keys.Kind(
    "an integer from 1 to 65536", lambda n: _keys.COUNT.fits(n) and n <= 2**16
)
_PAIR = _keys.list_of(SIDE, 2)
SIDES = SIDE | _keys.Kind("two of them", lambda v: _PAIR.fits(v) and len(v) == 2)


def sides_of(sample_size):
    """`(height, width)` of a `sample_size`, which is an integer, a pair or None."""
    pair = isinstance(sample_size, (list, tuple))
    return tuple(sample_size) if pair else (sample_size, sample_size)


def sample_size_of(height, width):
    """The inverse of `sides_of`."""
    return height if height == width else [height, width]


def load(make, table, source, subfolder=None, variant=None):
    """A model of a published folder.

    Args:
        make: function (configuration, its path, tensors) -> model.
        table: function model -> list of `Entry`.
        source, subfolder, variant: see `AutoencoderKL.from_pretrained`.
    """
    folder = st.fetch(source, subfolder)
    config = folder / "config.json"
    with reading(folder):
        weights = st.find_weights(folder, STEM, variant)
        content = st.read_json(config)
        return st.load_model(
            lambda kinds: make(content, config, kinds),
            lambda model, kinds: table(model),
            weights,
            config=config,
        )


def save(table, config, folder, dtype="float32", max_shard_size=None):
    """Writes a model's folder.

    Args:
        table: list of `Entry`.
        config: diffusers' configuration, a dict.
        folder, dtype, max_shard_size: see `AutoencoderKL.save_pretrained`.
    """
    settings = {"_diffusers_version": VERSION, **config}
    _writing.save_folder(table, settings, folder, STEM, dtype, max_shard_size)
