"""Low-rank changes of dense layers (2106.09685), in Keras's own dense layers."""

import keras
from keras import ops

from keras_genai.engine.checks import check_positive
from keras_genai.engine.initializers import VarianceScaling


def dense_layers(network):
    """The dense layers of a network, in its order."""
    found = network._flatten_layers()
    return [layer for layer in found if isinstance(layer, keras.layers.Dense)]


def enable(network, rank, targets, alpha=None, seed=0, also=()):
    """Freezes a network but for `alpha / rank * A B` beside the kernels of some layers.

    A begins uniform as He's, from the seed, and B at zero, so that the network begins
    as it is.

    Args:
        network: a built layer or model.
        rank: of the changes.
        targets: names of dense layers.
        alpha: their scale; by default the rank.
        seed: integer, the model's.
        also: names of layers that train as a whole beside them.

    Raises:
        ValueError: no layer has one of the names, or there are such changes already.
    """
    check_positive("rank", rank)
    layers = dense_layers(network)
    if any(layer.lora_enabled for layer in layers):
        raise ValueError("LoRA is enabled already: call merge_lora() before.")
    names = {layer.name for layer in layers}
    unknown = sorted(set(targets) - names)
    if unknown or not targets:
        raise ValueError(
            f"targets must be names of dense layers, of {', '.join(sorted(names))}; "
            f"got {', '.join(unknown) or 'none'}."
        )
    kept = [layer for layer in network._flatten_layers() if layer.name in also]
    absent = sorted(set(also) - {layer.name for layer in kept})
    if absent:
        raise ValueError(f"also: there is no layer {', '.join(absent)}.")
    kept = {id(v) for layer in kept for v in layer.trainable_variables}
    for variable in network.trainable_variables:
        variable.trainable = id(variable) in kept
    for i, layer in enumerate(layers):
        if layer.name in targets:
            stream = f"lora/{i}/{layer.name}"
            begin = VarianceScaling(2.0, "fan_in", "uniform", seed=seed, stream=stream)
            layer.enable_lora(rank, alpha, a_initializer=begin)


def merge(network):
    """Makes the changes part of the kernels; all weights train again.

    Raises:
        ValueError: there are none.
    """
    layers = [layer for layer in dense_layers(network) if layer.lora_enabled]
    if not layers:
        raise ValueError("LoRA is not enabled: there is nothing to merge.")
    for layer in layers:
        merged = ops.convert_to_numpy(layer.kernel)
        layer._tracker.unlock()
        for name in ("lora_kernel_a", "lora_kernel_b"):
            layer._untrack_variable(getattr(layer, name))
            delattr(layer, name)
        layer._tracker.lock()
        layer.lora_enabled = False
        layer.lora_rank = layer.lora_alpha = None
        layer._kernel.assign(merged)
    for layer in network._flatten_layers():
        for variable in layer._trainable_variables:
            variable.trainable = True


def check_merged(network):
    """Refuses to save changes that are not part of the kernels."""
    if any(layer.lora_enabled for layer in dense_layers(network)):
        raise ValueError(
            "LoRA is enabled: call merge_lora() before saving, so that the file holds "
            "the tuned weights."
        )
