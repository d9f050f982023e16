"""Gradient accumulation: the parts of one batch, or several batches, in one update.

`compile(accumulate=k)` cuts each batch into k parts (`in_parts`); optimizers with
`gradient_accumulation_steps=k` gather the gradients of k batches (`gather`).
"""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend import random, replicas
from keras_genai.backend.scope import with_values


def start(model, found):
    """Sets over how many batches an update of the weights goes.

    Args:
        model: the model.
        found: set of the numbers of all players.
    """
    model.accumulation = found.pop() if len(found) == 1 else 1
    if model.accumulation > 1 and model.gathered is None:
        # Batches, and samples in them, since the last update.
        model.gathered = model.add_weight(
            name="gathered",
            shape=(2,),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
    elif model.gathered is not None:
        model.gathered.assign([0, 0])


def in_parts(model, player, loss_fn, batch, variables, scale):
    """The loss and the gradients of a batch from those of its parts.

    Args:
        model: the model, whose `accumulate` is the number of parts.
        player: its name, for the message.
        loss_fn: function of the tensors of a part -> a scalar.
        batch: tuple of tensors or trees of them, one row a sample, or None.
        variables: what the gradients are of.
        scale: function of a loss -> that of which gradients are taken.

    Returns:
        `(loss, list of gradients)`.

    Raises:
        ValueError: there are no tensors to cut.
    """
    if all(x is None for x in keras.tree.flatten(batch)):
        raise ValueError(
            f"accumulate={model.accumulate} cuts the batch: {type(model).__name__}"
            f".train_step must give minimize({player!r}, loss_fn, ...) the tensors "
            "that the loss needs, one row a sample."
        )
    parts = replicas.Parts(list(batch), model.accumulate)
    parts.weigh(loss_fn)
    before = _layers_steps(model)
    whole, gradients = 0.0, None
    for index in range(model.accumulate):
        if index:
            for step, old in before:
                step.assign(old)
        share, part = parts.share(index), parts.cut(index)
        with parts.part(index):
            loss, found = backend.value_and_gradients(
                lambda part=part: loss_fn(*part),
                variables,
                lambda loss, share=share: scale(share * loss),
            )
        whole = whole + share * loss
        gradients = (
            found
            if gradients is None
            else [a + b for a, b in zip(gradients, found, strict=True)]
        )
    return whole, gradients


def outputs_of_parts(model, fn, batch):
    """What a function makes of the parts of a batch, as one, without gradients.

    The first of two passes (2101.06983, section 3): the parts, and the noise in their
    layers, are those of the step that follows, and what the function updates is
    dropped.

    Args:
        model: the model, whose `accumulate` is the number of parts.
        fn: function of the tensors of a part -> a tensor of one row a sample.
        batch: tuple of tensors or trees of them, one row a sample, or None.

    Returns:
        Tensor of one row for each sample of the batch.
    """
    parts = replicas.Parts(list(batch), model.accumulate)
    made = []
    for index in range(model.accumulate):
        part = parts.cut(index)
        with parts.part(index), backend.without_gradients():
            made.append(with_values((), lambda part=part: fn(*part)))
    return ops.stop_gradient(ops.concatenate(made, axis=0))


def gather(model, data, rows):
    """A step on one of the batches whose gradients make one update.

    They are the parts of the batch of that update: the noise of all is that of
    one step, numbered on from batch to batch, in the layers (dropout) as well.
    """
    first, last = model.gathered.value[1] + 0, model.ends_update()
    before = _layers_steps(model)
    with replicas.part(rows, first), replicas.counted(rows, data[2]):
        model.train_step(data)
        samples = ops.cast(replicas.samples(rows), "int32")
    for step, old in before:
        step.assign(ops.where(last, step.value, old))
    model.noise.advance(ops.cast(last, "int32"))
    gathered = ops.stack([model.gathered.value[0] + 1, first + samples])
    model.gathered.assign(ops.where(last, ops.zeros_like(gathered), gathered))


def for_each_part(model, rows, fn):
    """See `Model.for_each_part`."""
    before = _layers_steps(model)
    samples = ops.cast(replicas.samples(rows), "int32")
    for part in range(model.accumulation):
        if part:
            for step, old in before:
                step.assign(old)
        with replicas.numbered(part * samples):
            value = fn()
    return value


def _layers_steps(model):
    """The counters of noise in layers, each with its value now."""
    return [
        (layer.step, ops.copy(layer.step.value))
        for layer in model._flatten_layers()
        if isinstance(layer, random.Noise) and layer is not model.noise
    ]
