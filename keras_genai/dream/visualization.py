"""What a feature looks for: pictures that make it large, and where it is in a picture.

Feature visualization (Olah, Mordvintsev and Schubert, 2017), after 1312.6034.
"""

import json

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import programs, random
from keras_genai.backend.precision import widen
from keras_genai.callbacks import image_grid
from keras_genai.dream import ascent
from keras_genai.dream.deepdream import STEPS, DeepDream
from keras_genai.dream.features import features_of, find, network_of, preprocessed
from keras_genai.dream.objectives import Channel, Direction, Layer, Logit, Neuron
from keras_genai.dream.parametrization import PARAMETRIZATIONS, warped
from keras_genai.dream.pictures import check_pictures
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import array, integer, integers, number, text


@checked(
    size=integers(length=2),
    parametrization=text,
    steps=STEPS,
    learning_rate=number("> 0"),
    turn=number(">= 0"),
    zoom=number("[0, 1)"),
    move=integer(0),
)
def visualize(
    model,
    objectives,
    size=(128, 128),
    n=1,
    *,
    parametrization="fourier",
    steps=128,
    learning_rate=0.05,
    turn=0.1,
    zoom=0.1,
    move=8,
    preprocess=None,
    seed=0,
    verbose=1,
):
    """Pictures that a feature finds the most of what it looks for in.

    Adam climbs the coefficients of the pictures. Before each step the pictures are
    turned, zoomed and moved a little, each time otherwise: what remains large is no
    accident of single pixels.

    Args:
        model: see `DeepDream`.
        objectives: an objective of `kg.dream` or a list of them; or a dict name of a
            layer -> channel.
        size: `(height, width)`.
        n: number of pictures, each from its own noise.
        parametrization: `"fourier"`, waves and decorrelated colours; `"pixels"`.
        steps: at least 1.
        learning_rate: of Adam.
        turn: the most radians that pictures are turned, each way.
        zoom: the most that they are zoomed, as a share, each way; below 1.
        move: the most pixels that they are moved, each way.
        preprocess: see `DeepDream`.
        seed: integer >= 0.
        verbose: 1 shows a progress bar.

    Returns:
        NumPy float32 `(n, height, width, C)` in [-1, 1].

    Raises:
        ValueError: as `DeepDream`; for another parametrization.

    Example:

    ```python
    import keras_genai as kg

    cnn = kg.CNN.from_pretrained("fashion_mnist")
    objective = kg.dream.Channel("conv_2", 5)
    pictures = kg.dream.visualize(cnn, objective, size=(56, 56), n=4, move=4)
    ```
    """
    if parametrization not in PARAMETRIZATIONS:
        raise ValueError(
            f"parametrization must be one of {tuple(PARAMETRIZATIONS)}; got "
            f"{parametrization!r}."
        )
    if isinstance(objectives, dict):
        objectives = [Channel(name, index) for name, index in objectives.items()]
    elif not isinstance(objectives, (list, tuple)):
        objectives = [objectives]
    objectives = [_copied(objective) for objective in objectives]
    dreamer = DeepDream(
        model, objectives=objectives, tile=None, preprocess=preprocess, seed=seed
    )
    dreamer.check_size(*size, "The picture")
    shape = (*size, dreamer.channels)
    form = PARAMETRIZATIONS[parametrization](shape)
    z = random.normal(random.key(seed, "visualize"), (n, *shape), 0.0, 0.1, host=True)
    shakes = random.uniform(
        random.key(seed, "visualize/shakes"), (steps, 4), -1.0, 1.0, host=True
    )
    shakes = shakes * np.array([turn, zoom, move, move])

    def step(z, shake, number, rate, *state):
        def score(z):
            x = form.image(z)
            x = warped(x, shake[0], 1.0 + shake[1], ops.round(shake[2:]))
            return ops.sum(dreamer(x))

        value, gradient = backend.value_and_gradient(score, z)
        gradient = ascent.normalized(widen(gradient))
        z, state = ascent.climbed(z, gradient, state, number, rate, "adam")
        return (value, z, *state)

    name = ("visualize", parametrization, shape, preprocess)
    name += (keras.config.dtype_policy().name, *map(_told_apart, dreamer.objectives))
    step = programs.compiled_once(
        dreamer.network, name, step, dreamer.sampling_variables()
    )
    state = map(backend.from_host, ascent.start_state(z, "adam", np))
    z, rate = backend.from_host(z), backend.from_host(np.float32(learning_rate))
    bar = keras.utils.Progbar(steps, verbose=verbose, unit_name="step")
    for at, shake in enumerate(shakes.astype("float32")):
        at, shake = backend.from_host(np.int32(at)), backend.from_host(shake)
        value, z, *state = step(z, shake, at, rate, *state)
        bar.add(1, [("objective", float(value) / n)])
    return backend.to_host(form.image(z))


# Told by their configuration: two objects of the same climb the same.
_PLAIN = (Layer, Channel, Neuron, Direction, Logit)


def _copied(objective):
    """An objective that is no longer the user's, who may change it: a program lasts."""
    if type(objective) not in _PLAIN:
        return objective
    return type(objective).from_config(objective.get_config())


def _told_apart(objective):
    """What the program that climbs an objective is kept by: hashable."""
    if type(objective) not in _PLAIN:
        return objective
    config = {**objective.get_config(), "name": None}
    return type(objective), json.dumps(config, sort_keys=True, default=int)


@checked(layer=text, images=array((3, 4), finite=False))
def feature_maps(model, layer, images, preprocess=None):
    """What a layer says of pictures, at each place.

    Args:
        model: see `DeepDream`.
        layer: name of a layer with places.
        images: `(H, W, C)` or `(B, H, W, C)` in [-1, 1].
        preprocess: see `DeepDream`.

    Returns:
        NumPy float32 `(B, h, w, K)`, or `(h, w, K)` of one picture.
    """
    network = network_of(model)
    features = features_of(network, [find(network, layer)])
    x, one = check_pictures(images, features.channels)
    features.check_size(*x.shape[1:3])

    def seen(x):
        x = preprocessed(x, preprocess, network.compute_dtype)
        return widen(features(x)[0])

    run = programs.compiled_once(
        network, ("feature_maps", layer, preprocess), seen, features.variables
    )
    maps = backend.to_host(run(x))
    return maps[0] if one else maps


@checked(
    maps=array(3, says="the maps of one picture (h, w, K)"),
    channels=array(1, "iu"),
    columns=integer(1),
)
def feature_grid(maps, channels=None, columns=None):
    """Channels of one picture side by side, as a picture.

    Args:
        maps: `(h, w, K)` of `feature_maps`.
        channels: which; by default all.
        columns: see `kg.callbacks.image_grid`.

    Returns:
        uint8 `(height, width, 3)`; each channel from its least (black) to its largest.
    """
    maps, depth = np.asarray(maps), np.shape(maps)[-1]
    if channels is not None and not np.all((-depth <= channels) & (channels < depth)):
        raise ValueError(f"channels must be of the {depth} of maps; got {channels}.")
    maps = np.moveaxis(maps if channels is None else maps[..., channels], -1, 0)
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    unit = (maps - low) / np.maximum(high - low, 1e-12)
    return image_grid(unit[..., None], columns, value_range=(0.0, 1.0))


@checked(layer=text, images=array((3, 4), finite=False), top=integer(1))
def rank_channels(model, layer, images, top=None, preprocess=None):
    """The channels of a layer by how much of each is in a picture.

    Args:
        model, layer, images, preprocess: see `feature_maps`.
        top: how many; by default all.

    Returns:
        `(channels, means)`: integers from the most to the least, and the mean
        activation of each, over places and pictures.
    """
    maps = feature_maps(model, layer, images, preprocess)
    means = maps.reshape(-1, maps.shape[-1]).mean(0, dtype="float64")
    order = np.argsort(-means, kind="stable")[:top]
    return order, means[order]
