"""What `keras_genai.backend.interface` describes, as the backend at hand defines it."""

import importlib
import os

# TensorFlow's fast convolutions, on by default only where the CPU has AVX-512: a CGAN's
# step took 58 ms with them and 128 without on an AMD EPYC. Read at its first import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras

from keras_genai.backend import interface

_KNOWN = ("tensorflow", "jax", "torch")
_name = keras.backend.backend()
if _name not in _KNOWN:
    raise ImportError(
        f"keras_genai trains on the backends {', '.join(_KNOWN)}; KERAS_BACKEND is "
        f"{_name!r}. Set the environment variable KERAS_BACKEND to one of them "
        "before keras is first imported."
    )
_own = importlib.import_module(f"keras_genai.backend.{_name}")


def _implementation(default):
    """The backend's own function under the default's name and docstring."""
    fn = getattr(_own, default.__name__, default)
    fn.__doc__ = default.__doc__
    return fn


activated = _implementation(interface.activated)
apply_gradients = _implementation(interface.apply_gradients)
argmax = _implementation(interface.argmax)
attention = _implementation(interface.attention)
batch_normalization = _implementation(interface.batch_normalization)
check_distribution = _implementation(interface.check_distribution)
concrete_int = _implementation(interface.concrete_int)
cond = _implementation(interface.cond)
convolution = _implementation(interface.convolution)
cross_entropy = _implementation(interface.cross_entropy)
depthwise_convolution = _implementation(interface.depthwise_convolution)
feed = _implementation(interface.feed)
from_host = _implementation(interface.from_host)
gelu = _implementation(interface.gelu)
gradients = _implementation(interface.gradients)
group_normalization = _implementation(interface.group_normalization)
is_main_process = _implementation(interface.is_main_process)
jit = _implementation(interface.jit)
known = _implementation(interface.known)
leaky_relu = _implementation(interface.leaky_relu)
linear = _implementation(interface.linear)
list_devices = _implementation(interface.list_devices)
materialized = _implementation(interface.materialized)
outside = _implementation(interface.outside)
quick_gelu = _implementation(interface.quick_gelu)
remat = _implementation(interface.remat)
replayed = _implementation(interface.replayed)
replica = _implementation(interface.replica)
replica_sum = _implementation(interface.replica_sum)
threefry2x32 = _implementation(interface.threefry2x32)
to_host = _implementation(interface.to_host)
transposed_convolution = _implementation(interface.transposed_convolution)
value_and_gradient = _implementation(interface.value_and_gradient)
value_and_gradients = _implementation(interface.value_and_gradients)
without_gradients = _implementation(interface.without_gradients)
write = _implementation(interface.write)
COMPILES = _own.COMPILES
GRAPHS_ARE_CYCLES = _own.GRAPHS_ARE_CYCLES
Trainer = _own.Trainer
