"""The parts of the ascent, each against its definition."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend, dream
from keras_genai.dream import ascent, objectives, pictures
from keras_genai.dream.parametrization import Fourier, Pixels, warped
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def tensor(x):
    return ops.convert_to_tensor(x)


def test_a_roll_is_numpys():
    x = normal(2, 5, 7, 3)
    for shift in ((0, 0), (2, -3), (-9, 15)):
        found = ascent.rolled(tensor(x), tensor(np.array(shift, "int32")))
        np.testing.assert_array_equal(host(found), np.roll(x, shift, (1, 2)))


def test_a_normalized_gradient_has_the_size_one():
    x = normal(3, 4, 5, 2) * np.array([1e-6, 1.0, 1e3], "float32")[:, None, None, None]
    found = host(ascent.normalized(tensor(x)))
    np.testing.assert_allclose((found**2).mean((1, 2, 3)), 1.0, rtol=1e-4)
    assert np.all(host(ascent.normalized(tensor(np.zeros_like(x)))) == 0)


def test_the_laplacian_is_minus_the_gradient_of_total_variation():
    x = normal(2, 5, 6, 3)

    def variation(x):
        down, right = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
        return 0.5 * (ops.sum(ops.square(down)) + ops.sum(ops.square(right)))

    gradient = host(backend.gradients(variation, tensor(x)))
    np.testing.assert_allclose(
        host(ascent.laplacian(tensor(x))), -gradient, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_the_blur_is_a_gaussian(sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = normal(1, 14, 15, 2)
    expected = ndimage.gaussian_filter(
        x.astype("float64"),
        (0, sigma, sigma, 0),
        mode="wrap",
        radius=(0, *[int(np.ceil(3 * sigma))] * 2, 0),
    )
    np.testing.assert_allclose(
        host(ascent.smoothed(tensor(x), sigma)), expected, rtol=1e-4, atol=1e-5
    )


def test_adam_is_keras_adam():
    start, ways = normal(1, 3, 4, 2), [normal(1, 3, 4, 2) for _ in range(4)]
    variable = keras.Variable(start)
    reference = keras.optimizers.Adam(0.1, epsilon=ascent.EPSILON)
    x, state = tensor(start), ascent.start_state(tensor(start), "adam")
    for number, way in enumerate(ways):
        reference.apply([tensor(-way)], [variable])
        number = tensor(np.int32(number))
        x, state = ascent.climbed(x, tensor(way), state, number, 0.1, "adam")
    np.testing.assert_allclose(host(x), host(variable.value), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(7, 9), (31, 40), (13, 20)])
def test_resizing_is_pillows(size):
    image = pytest.importorskip("PIL.Image")
    x = RNG.uniform(-1, 1, (1, 13, 20, 1)).astype("float32")
    picture = image.fromarray(x[0, ..., 0])
    expected = np.asarray(picture.resize(size[::-1], image.Resampling.BILINEAR))
    found = pictures.resize(x, *size)
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5)
    box = (1.5, 2.0, 11.0, 17.5)
    part = picture.resize(
        size[::-1], image.Resampling.BILINEAR, box=(box[1], box[0], box[3], box[2])
    )
    inner = np.s_[2:-2, 2:-2]  # Pillow takes the box's edge for the picture's
    found = pictures.resize(x, *size, box)[0, ..., 0]
    np.testing.assert_allclose(found[inner], np.asarray(part)[inner], atol=1e-5)


# Objectives, of outputs that are known


def test_objectives_are_their_formulas():
    a = normal(2, 4, 6, 3)
    vector = np.array([1.0, -2.0, 2.0])
    guide = normal(1, 3, 2, 3)
    guided = objectives.Guided("x", guide)
    guided.prepare(lambda image: image)
    style = objectives.Style("x", guide)
    style.prepare(lambda image: image)
    content = objectives.Content("x", a[:1])
    content.prepare(lambda image: image)
    flat, own = guide.reshape(-1, 3), a.reshape(2, -1, 3)
    gram = np.einsum("bpi,bpj->bij", own, own) / 24
    target = np.einsum("pi,pj->ij", flat, flat) / 6
    for objective, expected in (
        (objectives.Layer("x"), (a**2).mean((1, 2, 3))),
        (objectives.Channel("x", 1), a[..., 1].mean((1, 2))),
        (objectives.Neuron("x", 1), a[:, 2, 3, 1]),
        (objectives.Neuron("x", 1, (0, 5)), a[:, 0, 5, 1]),
        (objectives.Direction("x", vector), (a @ vector / 3).mean((1, 2))),
        (guided, np.einsum("bpc,jc->bpj", own, flat).max(-1).mean(-1)),
        (style, -((gram - target) ** 2).mean((1, 2))),
        (content, -((a - a[:1]) ** 2).mean((1, 2, 3))),
    ):
        found = host(objective(tensor(a)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    logits = normal(2, 5)
    found = host(objectives.Logit(4)(tensor(logits)))
    np.testing.assert_allclose(found, logits[:, 4], rtol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: dream.Direction("x", [0.0, 0.0]), "not all zero"),
        (lambda: dream.Channel("x", -1), "index must be an integer of at least 0"),
        (lambda: dream.Neuron("x", 0, (1, 2, 3)), "must be .row, column."),
        (lambda: dream.Guided("x"), "needs an image"),
        (lambda: dream.Layer(3), "layer must be a string"),
    ],
)
def test_wrong_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Parametrizations


@pytest.mark.parametrize("form", [Pixels, Fourier])
@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 10, 1), (9, 6, 3)])
def test_a_parametrization_is_invertible(form, shape):
    made = form(shape)
    images = RNG.uniform(-0.9, 0.9, (2, *shape))
    z = made.coefficients(images).astype("float32")
    np.testing.assert_allclose(host(made.image(tensor(z))), images, atol=1e-4)
    again = made.coefficients(host(made.image(tensor(z))))
    np.testing.assert_allclose(again, z, rtol=1e-3, atol=1e-3 * np.abs(z).max())


def test_waves_are_decorrelated_as_in_photographs():
    """Equal coefficients of a low wave move pixels more than those of a high one."""
    form = Fourier((16, 16, 1))
    low, high = np.zeros((2, 1, 16, 16, 1), "float32")
    low[0, 1, 0], high[0, 8, 8] = 0.01, 0.01
    sizes = [np.square(host(form.image(tensor(z)))).mean() ** 0.5 for z in (low, high)]
    assert sizes[0] / sizes[1] == pytest.approx(np.sqrt(0.5) * 16, rel=1e-2)
    # Standard normal coefficients, before the tanh: deviation 1.
    z = normal(8, 16, 16, 1)
    assert np.arctanh(0.999999 * host(form.image(tensor(z)))).std() == pytest.approx(
        1.0, abs=0.3
    )


def test_the_warp_moves_turns_and_zooms():
    x = normal(2, 7, 7, 3)

    def warp(angle=0.0, scale=1.0, shift=(0.0, 0.0)):
        arguments = (np.float32(angle), np.float32(scale), np.array(shift, "float32"))
        return host(warped(tensor(x), *map(tensor, arguments)))

    np.testing.assert_allclose(warp(), x, atol=1e-6)
    np.testing.assert_allclose(warp(shift=(2, -1))[:, 2:, :6], x[:, :5, 1:], atol=1e-5)
    turned = warp(angle=np.pi / 2)
    assert min(
        np.abs(turned - np.rot90(x, k, (1, 2))).max() for k in (1, 3)
    ) == pytest.approx(0.0, abs=1e-4)
    zoomed = warp(scale=2.0)
    np.testing.assert_allclose(zoomed[:, 1:6:2, 1:6:2], x[:, 2:5, 2:5], atol=1e-5)
