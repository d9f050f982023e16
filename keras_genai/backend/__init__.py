"""The backend: the only part of the package that names one.

Families are written in `keras.ops` and reach the backend through the functions here
alone. Their contracts stand in `keras_genai.backend.interface`; each function is the
one that the backend at hand defines, or the interface's default.

- `random`: noise that is the same on every backend, keyed by seed, name and step.
- `replicas`: sums, means and noise over devices that share a batch.
- `programs`: compiled functions, kept by all that they depend on.

The backend is Keras's own: `KERAS_BACKEND` chooses it before the first import.
"""

from keras_genai.backend import primitives  # isort: skip (before Keras is imported)
from keras_genai.backend import programs, random, replicas
from keras_genai.backend.primitives import (
    COMPILES,
    GRAPHS_ARE_CYCLES,
    Trainer,
    activated,
    apply_gradients,
    argmax,
    attention,
    batch_normalization,
    check_distribution,
    concrete_int,
    cond,
    convolution,
    cross_entropy,
    depthwise_convolution,
    feed,
    from_host,
    gelu,
    gradients,
    group_normalization,
    is_main_process,
    jit,
    known,
    leaky_relu,
    linear,
    list_devices,
    materialized,
    outside,
    quick_gelu,
    remat,
    replayed,
    replica,
    replica_sum,
    threefry2x32,
    to_host,
    transposed_convolution,
    value_and_gradient,
    value_and_gradients,
    without_gradients,
    write,
)
from keras_genai.backend.scope import with_values

__all__ = [
    "COMPILES",
    "GRAPHS_ARE_CYCLES",
    "Trainer",
    "activated",
    "apply_gradients",
    "argmax",
    "attention",
    "batch_normalization",
    "check_distribution",
    "concrete_int",
    "cond",
    "convolution",
    "cross_entropy",
    "depthwise_convolution",
    "feed",
    "from_host",
    "gelu",
    "gradients",
    "group_normalization",
    "is_main_process",
    "jit",
    "known",
    "leaky_relu",
    "linear",
    "list_devices",
    "materialized",
    "outside",
    "programs",
    "primitives",
    "quick_gelu",
    "random",
    "remat",
    "replayed",
    "replica",
    "replica_sum",
    "replicas",
    "threefry2x32",
    "to_host",
    "transposed_convolution",
    "value_and_gradient",
    "value_and_gradients",
    "with_values",
    "without_gradients",
    "write",
]
