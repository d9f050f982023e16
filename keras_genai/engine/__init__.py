"""The engine: the only part of the package that names a backend.

Families are written in `keras.ops` and reach the backend through these
primitives alone:

- `value_and_gradients(loss_fn, variables)`: a loss and its gradients.
- `value_and_gradient(fn, x)`: a scalar and its gradient by a tensor.
- `gradients(fn, x)`: the gradient of a scalar by a tensor, differentiable again.
- `cond(pred, true_fn, false_fn)`: branches that may update variables.
- `with_values(pairs, fn)`: run a function with other values in its variables.
- `without_gradients()`: a context in which nothing is recorded.
- `jit(fn, variables)`: a function of tensors, compiled once for each shape.
- `apply_gradients(optimizer, gradients, variables)`: one optimizer step.
- `COMPILES`: whether `jit` compiles for each shape, which takes seconds.
- `is_main_process()`: whether this process writes the files of a run.
- `batch_normalization(x, ...)`: normalisation by the batch, in one fused kernel.
- `group_normalization(x, ...)`: normalisation by groups of channels, likewise.
- `attention(query, key, value, ...)`: of scaled products, in every float type.
- `write(x, values, index)`: into a cache of keys or values.
- `materialized(x)`: a sum of a residual stack, in memory once.
- `replayed(fn)`: a step of a loop, without Python's part where it is run eagerly.
- `remat(fn, *args)`: computed again for its gradient, instead of kept.
- `cross_entropy(labels, logits)`: of classes, in one kernel.
- `gelu(x)`: the exact one, of operations that ONNX has.
- `argmax(x)`: the place of the largest on the last axis, in one pass.
- `replicas`: sums, means and noise over devices that share a batch.

The backend is Keras's own: `KERAS_BACKEND` chooses it before the first import.
"""

import importlib
import os

# TensorFlow's fast convolutions, on by default only where the CPU has AVX-512: a CGAN's
# step took 58 ms with them and 128 without on an AMD EPYC. Read at its first import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras

_KNOWN = ("tensorflow", "jax", "torch")
_name = keras.backend.backend()
if _name not in _KNOWN:
    raise ImportError(
        f"keras_genai trains on the backends {', '.join(_KNOWN)}; KERAS_BACKEND is "
        f"{_name!r}. Set the environment variable KERAS_BACKEND to one of them "
        "before keras is first imported."
    )
backend_ops = importlib.import_module(f"keras_genai.engine.{_name}")

value_and_gradients = backend_ops.value_and_gradients
value_and_gradient = backend_ops.value_and_gradient
gradients = backend_ops.gradients
cond = backend_ops.cond
without_gradients = backend_ops.without_gradients
jit = backend_ops.jit
apply_gradients = backend_ops.apply_gradients
argmax = backend_ops.argmax
attention = backend_ops.attention
cross_entropy = backend_ops.cross_entropy
batch_normalization = backend_ops.batch_normalization
group_normalization = backend_ops.group_normalization
gelu = backend_ops.gelu
leaky_relu = backend_ops.leaky_relu
remat = backend_ops.remat
materialized = getattr(backend_ops, "materialized", lambda x: x)
replayed = getattr(backend_ops, "replayed", lambda fn: fn)
write = backend_ops.write
to_host = backend_ops.to_host
COMPILES = backend_ops.COMPILES
is_main_process = backend_ops.is_main_process
list_devices = backend_ops.list_devices

from keras_genai.engine import initializers, random, replicas  # noqa: E402
from keras_genai.engine.ema import EMA  # noqa: E402
from keras_genai.engine.model import GenerativeModel  # noqa: E402
from keras_genai.engine.optimizer import PlayersOptimizer  # noqa: E402
from keras_genai.engine.scope import with_values  # noqa: E402

__all__ = [
    "COMPILES",
    "EMA",
    "GenerativeModel",
    "PlayersOptimizer",
    "apply_gradients",
    "argmax",
    "attention",
    "backend_ops",
    "batch_normalization",
    "cond",
    "cross_entropy",
    "gelu",
    "gradients",
    "group_normalization",
    "initializers",
    "is_main_process",
    "jit",
    "leaky_relu",
    "list_devices",
    "materialized",
    "random",
    "remat",
    "replayed",
    "replicas",
    "to_host",
    "value_and_gradient",
    "value_and_gradients",
    "with_values",
    "without_gradients",
    "write",
]
