"""Keras's Adam on PyTorch in one pass over the weights.

Keras takes ten: a third of a small VAE's step, 0.5 s of GPT-2's 6.
"""

import contextlib
import functools

import keras
import torch

from keras_genai.backend.learning_rate import current_rate
from keras_genai.backend.torch.recorder.recording import outside

ENDLESS = torch.tensor(1e12)
PLAIN = [
    type(make())._parallel_update_step
    for make in (keras.optimizers.Adam, keras.optimizers.AdamW)
]


@contextlib.contextmanager
def fused(optimizer, variables):
    """A context in which `optimizer` takes its step in one kernel, if it has one.

    It is Adam or AdamW as they are in Keras, of float32 or float64 on a CPU. The step
    of any other that Keras has for lists of tensors is its own, recorded as one.
    """
    kind = getattr(type(optimizer), "_parallel_update_step", None)
    if kind is None:
        yield
        return

    fits = kind in PLAIN and not optimizer.amsgrad and all(map(_fits, variables))
    step = functools.partial(outside, update if fits else kind, optimizer)
    changed = {"_parallel_update_step": step}
    if not isinstance(optimizer._learning_rate, keras.Variable):
        # A schedule may look at the number of the step.
        rate = functools.partial(outside, _rate, optimizer)
        changed["_get_current_learning_rate"] = rate
    own = {name: vars(optimizer)[name] for name in changed if name in vars(optimizer)}
    vars(optimizer).update(changed)
    try:
        yield
    finally:
        for name in changed:
            del vars(optimizer)[name]
        vars(optimizer).update(own)


def _rate(optimizer):
    return keras.ops.convert_to_tensor(current_rate(optimizer))


def _fits(variable):
    value = variable.value
    return value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64)


def update(optimizer, gradients, variables, learning_rate):
    """Adam's step (1412.6980, section 2, the last two lines, with its epsilon hat)."""
    places = [optimizer._get_variable_index(v) for v in variables]
    number = float(keras.ops.convert_to_tensor(optimizer.iterations)) + 1.0
    first, second = (1.0 - b**number for b in (optimizer.beta_1, optimizer.beta_2))
    torch._fused_adam_(
        [v.value for v in variables],
        [g.contiguous() for g in gradients],
        [optimizer._momentums[i].value for i in places],
        [optimizer._velocities[i].value for i in places],
        [],
        [ENDLESS] * len(places),  # after which it corrects nothing any more
        lr=float(learning_rate) * second**0.5 / first,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=0.0,
        eps=optimizer.epsilon,
        amsgrad=False,
        maximize=False,
    )
