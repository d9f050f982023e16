"""Several devices or processes that train one model on one global batch.

Each replica holds a part of the batch and all of the weights. Under JAX's
`keras.distribution` the compiler divides the work and a step sees the whole batch:
there is one replica. Under TensorFlow's `tf.distribute` strategies and PyTorch's
process groups a step sees its own part, and this module makes what it computes the
step of the whole: the loss of a part counts by its share of the samples, gradients
and batch statistics are summed over the replicas, and noise is numbered by the
sample's place in the global batch.

A step may cut its batch into parts once more (`compile(accumulate=k)`), one after the
other; `Parts` is to them what the sums over replicas are to those.

All of it holds inside `part(rows)`, which `Model` opens around each step;
outside, and with one replica, every function here changes nothing.
"""

import contextlib
import threading

import keras
from keras import ops

from keras_genai.backend import primitives
from keras_genai.backend.scope import with_values

# TensorFlow traces the replicas of one process in threads.
_here = threading.local()


@contextlib.contextmanager
def part(rows, first=0):
    """Opens a step on this replica's part of the global batch.

    Args:
        rows: samples in the part: an integer or an int32 scalar tensor.
        first: number of the global batch's first sample, where several batches are
            the parts of one update: likewise.
    """
    with numbered(first), _divided(rows, primitives.replica()):
        yield


@contextlib.contextmanager
def numbered(first):
    """Opens a part of an update: its samples are numbered from `first` on."""
    before = getattr(_here, "first", 0)
    _here.first = first
    try:
        yield
    finally:
        _here.first = before


@contextlib.contextmanager
def _divided(rows, replica):
    if replica is None:
        yield
        return
    index, count = replica
    own = ops.cast(ops.equal(ops.arange(count), index), "int32")
    (sizes,) = primitives.replica_sum([own * ops.cast(rows, "int32")])  # (count,)
    before = ops.cast(ops.less(ops.arange(count), index), "int32")
    _here.offset = ops.sum(before * sizes)
    share = ops.cast(ops.sum(own * sizes), "float32")
    _here.share = share / ops.cast(ops.sum(sizes), "float32")
    try:
        yield
    finally:
        _here.offset, _here.share = 0, None


def offset():
    """The number of this part's first sample in the global batch."""
    return getattr(_here, "offset", 0)


def number():
    """The number of this part's first sample among those of the update."""
    return getattr(_here, "first", 0) + offset()


def share():
    """This part's share of the samples, a float32 scalar; None with one replica."""
    return getattr(_here, "share", None)


def samples(rows):
    """The number of samples in the global batch, a float32 scalar.

    Args:
        rows: those in this part.
    """
    rows = ops.cast(rows, "float32")
    return rows if share() is None else rows / share()


@contextlib.contextmanager
def counted(rows, weight=None):
    """Opens a step whose batch counts by its samples' weights in means over the data.

    Kept by thread, as a part is: one replica may leave its step before another.

    Args:
        rows: samples in this part.
        weight: of each of them, or of other things that the batch counts by, such as
            its tokens: a tensor, or None.
    """
    before = batch_samples()
    if weight is None:
        _here.samples = samples(rows)
    else:
        weight = ops.cast(ops.convert_to_tensor(weight), "float32")
        (_here.samples,) = total([ops.sum(weight)])
    try:
        yield
    finally:
        _here.samples = before


def batch_samples():
    """What the global batch counts by inside `counted`, a float32 scalar; else None."""
    return getattr(_here, "samples", None)


def total(tensors):
    """Sums tensors over the replicas, differentiably.

    Args:
        tensors: list of float tensors, of the same shapes on every replica.

    Returns:
        List of tensors: the sums, equal on every replica.
    """
    return tensors if share() is None else primitives.replica_sum(list(tensors))


def gather(tensors, rows):
    """The rows of all replicas, in the order of the global batch, differentiably.

    As the sum of what each replica has, in the midst of zeros: one primitive does for
    parts of other sizes, too.

    Args:
        tensors: list of float tensors of `rows` rows.
        rows: samples in this part.

    Returns:
        List of tensors, equal on every replica; the arguments with one replica.
    """
    if share() is None:
        return tensors
    whole = primitives.concrete_int(ops.cast(ops.round(samples(rows)), "int32"))
    positions = ops.arange(whole, dtype="int32") - ops.cast(offset(), "int32")
    rows = ops.cast(rows, "int32")
    own = ops.logical_and(positions >= 0, positions < rows)
    positions = ops.clip(positions, 0, rows - 1)

    def placed(x):
        axes = tuple(range(1, len(x.shape)))
        here = ops.expand_dims(own, axes) if axes else own
        x = ops.take(x, positions, axis=0)
        return ops.where(here, x, ops.zeros_like(x))

    return total([placed(x) for x in tensors])


def mean(value):
    """The mean over the global batch, from the mean over this part.

    Args:
        value: float tensor: a mean over the samples of the part.

    Returns:
        Tensor of the same shape, equal on every replica.
    """
    if share() is None:
        return value
    (value,) = total([value * ops.cast(share(), value.dtype)])
    return value


def normalizer(weight):
    """What a part's weighted sum is divided by to be its mean.

    With it, `mean(sum(w * x) / normalizer(sum(w)))` is the weighted mean over the
    global batch, whatever the weights of the parts.

    Args:
        weight: scalar, the sum of the part's weights.

    Returns:
        Scalar; the argument itself with one replica.
    """
    parts = getattr(_here, "parts", None)
    if parts is not None:
        return parts.normalizer(weight)
    return _of_this_part(total([weight])[0])


def _of_this_part(whole):
    return whole if share() is None else whole * ops.cast(share(), whole.dtype)


class Parts:
    """A batch that is cut into parts, one after the other in the same step.

    The loss of a part counts by its share of the samples; what its weighted sums are
    divided by (`normalizer`) is the sum of the weights of all parts. So the mean of the
    parts' losses is the loss of the whole batch, whatever the weights, and so are the
    gradients.

    Args:
        batch: list of tensors or trees of them, of one row a sample; None stays None.
        count: number of parts.

    Raises:
        ValueError: the batch is known to have fewer samples than parts.
    """

    def __init__(self, batch, count):
        self.batch, self.count = batch, count
        leaves = [x for x in keras.tree.flatten(batch) if x is not None]
        self.rows = ops.shape(leaves[0])[0]
        if isinstance(self.rows, int) and self.rows < count:
            raise ValueError(
                f"accumulate={count} cuts each batch into as many parts; this one has "
                f"{self.rows} samples on this device. Leave it out."
            )
        # Of each of the loss's calls of `normalizer`, in their order: the sum of all
        # parts' weights, and those that `weigh` gathers for it.
        self.totals, self.weights = None, []
        self.index = self.asked = 0  # the present part, and its next call

    def cut(self, index):
        """The tensors of one part."""
        start, stop = self._ends(index)
        return keras.tree.map_structure(
            lambda x: None if x is None else x[start:stop], self.batch
        )

    def _ends(self, index):
        return index * self.rows // self.count, (index + 1) * self.rows // self.count

    def share(self, index):
        """A part's share of the samples, a float32 scalar or a float."""
        start, stop = self._ends(index)
        if isinstance(self.rows, int):
            return (stop - start) / self.rows
        return ops.cast(stop - start, "float32") / ops.cast(self.rows, "float32")

    @contextlib.contextmanager
    def part(self, index):
        """Opens a part: its samples are numbered and counted as in the whole batch."""
        before, whole = getattr(_here, "parts", None), batch_samples()
        self.index, self.asked = index, 0
        _here.parts = self
        if whole is not None:
            _here.samples = whole * self.share(index)
        first = getattr(_here, "first", 0)
        try:
            with numbered(first + self._ends(index)[0]):
                yield
        finally:
            _here.parts, _here.samples = before, whole

    def normalizer(self, weight):
        """See `replicas.normalizer`."""
        if self.totals is None:  # `weigh` asks
            self.weights.append(weight)
            return weight
        whole = self.totals[self.asked]
        self.asked += 1
        share = ops.cast(self.share(self.index), weight.dtype)
        return _of_this_part(whole) * share

    def weigh(self, loss_fn):
        """Finds the sums of weights that the losses of the parts are divided by.

        The function is called with each part for that alone, without gradients and
        without updates: where it is compiled, only what the weights need is computed.
        One that divides by no weights is called with the first part only.

        Args:
            loss_fn: function of a part's tensors.
        """
        sums = []
        for index in range(self.count):
            self.weights = []
            part = self.cut(index)
            with self.part(index), primitives.without_gradients():
                with_values((), lambda part=part: loss_fn(*part))
            if not self.weights:
                break
            sums.append(self.weights)
        self.totals = [total([sum(each)])[0] for each in zip(*sums, strict=True)]
