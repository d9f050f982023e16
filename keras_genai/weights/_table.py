"""The entries of a network's weights in a published file, gathered layer by layer."""

from operator import attrgetter

from keras_genai.weights import _safetensors as st


class Table:
    """The entries of a network, gathered layer by layer.

    Args:
        prefix: what all names begin with, such as `"bert."`; names are also found
            with and without it, as transformers itself finds them.

    Attributes:
        entries: list of `Entry`.
    """

    def __init__(self, prefix=""):
        self.prefix = prefix
        self.entries = []

    def add(self, make, name, variable, bare=False, aliases=(), **how):
        """One entry.

        Args:
            make: function (name, variable, aliases) -> `Entry`, such as `st.dense`.
            name: in the file, after the prefix.
            variable: ours.
            bare: whether the prefix is left away.
            aliases: other names, after the prefix.
        """
        names = [name, *aliases]
        if not bare:
            full = [self.prefix + n for n in names]
            names = full + (names if self.prefix else [])
        self.entries.append(make(names[0], variable, tuple(names[1:]), **how))

    def affine(self, name, layer, bare=False):
        """A normalization; the oldest files say gamma and beta."""
        for own, new in (("gamma", "weight"), ("beta", "bias")):
            variable = getattr(layer, own)
            if variable is not None:
                old = (f"{name}.{own}",)
                self.add(st.vector, f"{name}.{new}", variable, bare, old)

    def dense(self, name, layer, bare=False, old=None, make=st.dense):
        """A matrix, and the bias where there is one.

        Args:
            name: of the layer in the file.
            layer: ours.
            bare: see `add`.
            old: its name in older files.
            make: of the matrix's entry.
        """
        weights, biases = (
            () if old is None else (f"{old}.{part}",) for part in ("weight", "bias")
        )
        self.add(make, f"{name}.weight", layer.kernel, bare, weights)
        if layer.use_bias:
            self.add(st.vector, f"{name}.bias", layer.bias, bare, biases)

    def dense_layers(self, place, block, names, bare=False):
        """The matrices of a block.

        Args:
            place: of the block in the file.
            block: ours.
            names: dict of a layer's name in the file -> ours, dots for its parts.
            bare: see `add`.
        """
        for name, own in names.items():
            self.dense(f"{place}.{name}", attrgetter(own)(block), bare)

    def vector(self, name, variable, bare=False):
        """A bias, or a table of vectors, rows as in Keras."""
        self.add(st.vector, name, variable, bare)
