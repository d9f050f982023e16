"""Spectral normalization (Miyato et al. 2018, 1802.05957)."""

import math

import keras
from keras import layers, ops

from keras_genai import backend
from keras_genai.layers.initializers import Normal
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.validation import network

# Which axes of a kernel are its outputs. A subclass has the axes of its parent.
_OUTPUT_AXES = (
    ((layers.Dense, layers.Embedding), (-1,)),
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), (-1,)),
    ((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), (-2,)),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), (-2, -1)),
)


@keras.saving.register_keras_serializable("keras_genai")
class SpectralNormalization(layers.Wrapper):
    """Divides a layer's kernel by an estimate of its largest singular value.

    1802.05957, Algorithm 1: the layer computes with `W / sigma(W)`, `sigma = u^T W v`,
    with `u` and `v` from a power iteration that goes on from call to call; the layer is
    then about 1-Lipschitz. For the gradient `u` and `v` are constants and the `W` in
    `sigma` is not, as in PyTorch's `nn.utils.parametrizations.spectral_norm`. Keras's
    own layer of this name (3.15) assigns `W / sigma` to the weight itself, so that
    `sigma` is left out of the gradient, or, on the backend that keeps state in values,
    the assignment is lost with the step (both seen).

    The matrix has one column for each output: `(inputs, units)` for `Dense`,
    `(kh * kw * in, out)` for a convolution and for a transposed one, `(kh * kw, in *
    multiplier)` for a depthwise one, `(vocabulary, dimension)` for `Embedding`.

    Args:
        layer: `Dense`, `Embedding`, or a plain, transposed or depthwise convolution.
            Any other layer with a `kernel` of two axes will do.
        power_iterations: Iterations in each training call, at least 1; the paper
            uses 1.
        epsilon: Lower bound of the norm that a vector is divided by. A kernel whose
            `sigma` is not above it (a zero kernel) is used as it is.
        seed: Seed of the first `u`, which is the same on every backend.
        **kwargs: Of `keras.layers.Wrapper`: `name`. There is no `dtype`: the layer
            inside has its own.

    Call arguments:
        inputs: What `layer` takes.
        training: Whether `u` moves on. `v` follows from `u` in every call.

    Returns:
        What `layer` returns. `sigma` is computed in float32 under mixed precision.

    Raises:
        ValueError: `power_iterations` below 1, a `dtype`, or, at the first call, a
            layer of another kind.

    Example:

    >>> layer = SpectralNormalization(keras.layers.Conv2D(8, 3, padding="same"))
    >>> layer(keras.ops.ones((2, 16, 16, 3)), training=True).shape
    (2, 16, 16, 8)
    """

    @checked(layer=network)
    def __init__(
        self,
        layer: keras.Layer,
        power_iterations: int = 1,
        epsilon: float = 1e-12,
        seed: int = 0,
        **kwargs,
    ):
        if "dtype" in kwargs:
            raise ValueError(
                "SpectralNormalization has no dtype of its own: give it to the layer "
                f"inside; got dtype={kwargs['dtype']!r}."
            )
        # A float32 layer that leaves its inputs alone reads the kernel uncast, for
        # sigma; the layer inside then casts by its own policy.
        super().__init__(layer, dtype="float32", autocast=False, **kwargs)
        self.power_iterations = check_integer("power_iterations", power_iterations)
        self.epsilon = epsilon
        self.seed = seed

    def build(self, input_shape=None):
        super().build(input_shape)
        # The kernel is not kept here: Keras would save it as this layer's, too.
        kernel, outputs = _kernel_and_outputs(self.layer)
        inputs = [axis for axis in range(len(kernel.shape)) if axis not in outputs]
        self._order = (*inputs, *outputs)
        self._columns = math.prod(kernel.shape[axis] for axis in outputs)
        self.u = self.add_weight(
            name="u",
            shape=(self._columns,),
            initializer=Normal(1.0, seed=self.seed, stream="spectral_normalization"),
            trainable=False,
            dtype="float64" if kernel.dtype == "float64" else "float32",
            # Every replica has the same kernel and so the same u.
            aggregation="only_first_replica",
        )

    def normalized_kernel(self, training: bool = False):
        """`W / sigma(W)`, in the shape of the kernel and at least in float32.

        Args:
            training: Whether the power iteration moves on and `u` is stored.
        """
        kernel, _ = _kernel_and_outputs(self.layer)
        w = ops.cast(ops.convert_to_tensor(kernel), self.u.dtype)
        matrix = ops.reshape(
            ops.transpose(w, self._order), (-1, self._columns)
        )  # (inputs, outputs): the transpose of the paper's W
        constant = ops.stop_gradient(matrix)
        # A copy, because a later call may store another u before the gradient of this
        # one is taken.
        u = ops.stop_gradient(ops.copy(self.u))  # (outputs,)
        for _ in range(self.power_iterations if training else 1):
            v = self._unit(ops.matmul(constant, u))  # (inputs,)
            if training:
                u = self._unit(ops.matmul(v, constant))  # (outputs,)
        if training:
            self.u.assign(u)
        sigma = ops.sum(ops.matmul(v, matrix) * u)  # ()
        return w / ops.where(sigma > self.epsilon, sigma, ops.ones_like(sigma))

    def _unit(self, x):
        return x / ops.maximum(ops.sqrt(ops.sum(ops.square(x))), self.epsilon)

    def call(self, inputs, training=False):
        kernel, _ = _kernel_and_outputs(self.layer)
        value = self.normalized_kernel(training)
        return backend.with_values([(kernel, value)], lambda: self.layer(inputs))

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, *args, **kwargs):
        # The layer's own, and not this one's float32.
        return self.layer.compute_output_spec(*args)

    def get_config(self):
        config = super().get_config()
        config.pop("dtype")
        return {
            **config,
            "power_iterations": self.power_iterations,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }


def _kernel_and_outputs(layer):
    """The variable to normalise and its output axes, counted from 0."""
    kernel = getattr(layer, "kernel", getattr(layer, "embeddings", None))
    if isinstance(kernel, keras.Variable):
        rank = len(kernel.shape)
        for types, axes in _OUTPUT_AXES:
            if isinstance(layer, types):
                return kernel, [rank + axis for axis in axes]
        if rank == 2:  # either side: a matrix and its transpose have one sigma
            return kernel, [1]
    raise ValueError(
        "SpectralNormalization takes Dense, Embedding, a plain, transposed or "
        "depthwise convolution, or another layer whose kernel is a variable of two "
        f"axes (and has no LoRA); got {type(layer).__name__}."
    )
