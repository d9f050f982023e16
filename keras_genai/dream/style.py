"""Neural style transfer (1508.06576): one picture in the manner of another.

The same ascent as DeepDream's, on the nearness of a layer to what it says of the
content, and of the products of features (Gram matrices) to those of the style.
"""

from collections.abc import Mapping

from keras_genai.dream.deepdream import STEPS, DeepDream
from keras_genai.dream.features import find, network_of
from keras_genai.dream.objectives import Content, Style
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    array,
    either,
    number,
    text,
    tuple_of,
    weights,
)

LAYERS = either(
    text,
    tuple_of(text),
    weights,
    says="the name of a layer, a list of such, or a dict name -> weight, a number > 0",
)


@checked(
    content=array(3, finite=False),
    style=array(3, finite=False),
    content_layers=LAYERS,
    style_layers=LAYERS,
    style_weight=number(">= 0"),
    steps=STEPS,
    step_size=number("> 0"),
    total_variation=number(">= 0"),
)
def style_transfer(
    model,
    content,
    style,
    content_layers,
    style_layers,
    *,
    style_weight=1.0,
    steps=200,
    step_size=0.02,
    total_variation=0.0,
    preprocess=None,
    verbose=1,
):
    """A picture with the content of one and the style of another.

    It begins as the content and climbs by Adam. Each objective counts by one over its
    value at the start, so that weights mean the same for all layers.

    Args:
        model: see `DeepDream`; the paper's is VGG.
        content: `(H, W, C)` in [-1, 1].
        style: likewise, of any size.
        content_layers: name of a layer, or a list, or a dict name -> weight.
        style_layers: likewise.
        style_weight: beta / alpha of equation 7: what all style counts beside content.
        steps, step_size, total_variation, preprocess, verbose: see `DeepDream`.

    Returns:
        NumPy float32 `(H, W, C)` in [-1, 1].

    Example:

    ```python
    painted = kg.dream.style_transfer(
        kg.dream.load("vgg16"), photograph, painting, "block4_conv2",
        ["block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1"],
    )
    ```
    """
    objectives = []
    for kind, picture, layers, share in (
        (Content, content, _weights(model, "content_layers", content_layers), 1.0),
        (Style, style, _weights(model, "style_layers", style_layers), style_weight),
    ):
        if not share:
            continue
        total = sum(layers.values())
        for name, weight in layers.items():
            objectives.append(kind(name, picture, share * weight / total))
    settings = {"tile": None, "preprocess": preprocess}
    # At the start the content is there wholly: it is measured against grey.
    for objective in objectives:
        alone = DeepDream(model, objectives=objective, **settings)
        start = content if isinstance(objective, Style) else 0.0 * content
        distance = abs(float(alone.measure(start)) / objective.weight)
        objective.weight /= max(distance, 1e-12)
    dreamer = DeepDream(
        model,
        objectives=objectives,
        octaves=1,
        jitter=0,
        smoothing=0,
        steps=steps,
        step_size=step_size,
        optimizer="adam",
        total_variation=total_variation,
        **settings,
    )
    return dreamer.dream(content, verbose=verbose)


def _weights(model, argument, layers):
    """Names of layers of the model as a dict name -> weight."""
    if isinstance(layers, str):
        layers = [layers]
    for name in layers:
        try:
            find(network_of(model), name)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from None
    return layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
