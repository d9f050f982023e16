"""Low-rank changes of dense layers (2106.09685), in Keras's own dense layers."""

import gc

import keras
from keras import ops

from keras_genai.layers.initializers import VarianceScaling
from keras_genai.utils.checks import check_positive


def dense_layers(network):
    """The dense layers of a network, in its order."""
    found = network._flatten_layers()
    return [layer for layer in found if isinstance(layer, keras.layers.Dense)]


def paths(network):
    """The place of each layer in a network: list of `(path, layer)`, in its order.

    A path joins the names of the layers on the way by `/`, without the network's own:
    `"block_0/attention/query"`.
    """
    found, seen = [], set()

    def walk(layer, path):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        found.append((path, layer))
        for inner in layer._layers:
            walk(inner, f"{path}/{inner.name}" if path else inner.name)

    walk(network, "")
    return found[1:]


def fits(target, path):
    """Whether a target names a path: it is the whole of it, or its last parts."""
    return f"/{path}".endswith(f"/{target}")


def enable(network, rank, targets, alpha=None, seed=0, also=()):
    """Freezes a network but for `alpha / rank * A B` beside the kernels of some layers.

    A begins uniform as He's, from the seed, and B at zero, so that the network begins
    as it is.

    Args:
        network: a built layer or model.
        rank: of the changes.
        targets: which dense layers: names (`"out"`); paths, or their last parts
            (`"attention/out"`, see `paths`); or a function `(path, layer) -> bool`.
        alpha: their scale; by default the rank.
        seed: integer, the model's.
        also: names or paths of layers that train as a whole beside them.

    Raises:
        ValueError: no layer has one of the names or paths, the function takes none, or
            there are such changes already.
    """
    check_positive("rank", rank)
    layers = dense_layers(network)
    check_plain(network)
    places = paths(network)
    path_of = {id(layer): path for path, layer in places}
    chosen = _chosen(layers, path_of, targets)
    absent = sorted(a for a in also if not any(fits(a, path) for path, _ in places))
    if absent:
        raise ValueError(f"also: there is no layer {', '.join(absent)}.")
    kept = [layer for path, layer in places if any(fits(a, path) for a in also)]
    kept = {id(v) for layer in kept for v in layer.trainable_variables}
    for variable in network.trainable_variables:
        variable.trainable = id(variable) in kept
    for i, layer in enumerate(layers):
        if id(layer) in chosen:
            stream = f"lora/{i}/{layer.name}"
            begin = VarianceScaling(2.0, "fan_in", "uniform", seed=seed, stream=stream)
            layer.enable_lora(rank, alpha, a_initializer=begin)


def _chosen(layers, path_of, targets):
    """The `id`s of the dense layers that targets name, at least one for each."""
    if callable(targets):
        chosen = {id(x) for x in layers if targets(path_of[id(x)], x)}
        if not chosen:
            raise ValueError("targets, a function, takes none of the dense layers.")
        return chosen
    targets = [targets] if isinstance(targets, str) else list(targets)
    found = {t: [x for x in layers if fits(t, path_of[id(x)])] for t in targets}
    unknown = sorted(target for target, some in found.items() if not some)
    if unknown or not targets:
        names = sorted({layer.name for layer in layers})
        raise ValueError(
            f"targets must be names of dense layers, of {', '.join(names)}, or paths "
            f"such as {path_of[id(layers[0])]}; got {', '.join(unknown) or 'none'}."
        )
    return {id(layer) for some in found.values() for layer in some}


def merge(*networks):
    """Makes the changes part of the kernels; all weights train again.

    Raises:
        ValueError: there are none.
    """
    layers = [x for net in networks for x in dense_layers(net) if x.lora_enabled]
    if not layers:
        raise ValueError("LoRA is not enabled: there is nothing to merge.")
    for layer in layers:
        merged = ops.convert_to_numpy(layer.kernel)
        layer._tracker.unlock()
        for name in ("lora_kernel_a", "lora_kernel_b"):
            layer._untrack_variable(getattr(layer, name))
            # Past Keras's own deletion, which collects garbage each time: 0.2 s.
            super(keras.layers.Layer, layer).__delattr__(name)
        layer._tracker.lock()
        layer.lora_enabled = False
        layer.lora_rank = layer.lora_alpha = None
        layer._kernel.assign(merged)
    gc.collect()
    for layer in (layer for net in networks for layer in net._flatten_layers()):
        for variable in layer._trainable_variables:
            variable.trainable = True


def check_plain(*networks):
    """Refuses to begin where there are such changes already."""
    if any(layer.lora_enabled for net in networks for layer in dense_layers(net)):
        raise ValueError("LoRA is enabled already: call merge_lora() before.")


def check_merged(*networks):
    """Refuses to save changes that are not part of the kernels."""
    if any(layer.lora_enabled for net in networks for layer in dense_layers(net)):
        raise ValueError(
            "LoRA is enabled: call merge_lora() before saving, so that the file holds "
            "the tuned weights."
        )
