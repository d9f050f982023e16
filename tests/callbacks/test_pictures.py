"""Many images as one picture."""

import numpy as np
import pytest

import keras_genai as kg

pytestmark = pytest.mark.once


def test_places_and_values():
    images = np.linspace(-1, 1, 5 * 2 * 3, dtype="float32").reshape(5, 2, 3, 1)
    grid = kg.callbacks.image_grid(images, columns=3, scale=2, gap=1)
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
    wanted = np.floor((images + 1) * 127.5 + 0.5).astype("uint8")
    for i in range(5):
        top, left = 1 + 5 * (i // 3), 1 + 7 * (i % 3)
        cell = grid[top : top + 4, left : left + 6]
        np.testing.assert_array_equal(cell[::2, ::2], wanted[i].repeat(3, -1))
        np.testing.assert_array_equal(cell[1::2, 1::2], cell[::2, ::2])
    assert (grid[6:, 15:] == 255).all()  # no sixth image
    for line in (grid[0], grid[5], grid[10], grid[:, 0], grid[:, 7], grid[:, -1]):
        assert (line == 255).all()


@pytest.mark.parametrize(
    "pixel, shown",
    [
        ([-1], [0, 0, 0]),
        ([1], [255, 255, 255]),
        ([-1, -1], [255, 255, 255]),  # black, transparent
        ([-1, 0], [128, 128, 128]),
        ([1, -1, 0], [255, 0, 128]),
        ([1, -1, -1, 1], [255, 0, 0]),
        ([1, -1, -1, 0], [255, 128, 128]),
        ([1, -1, -1, -1], [255, 255, 255]),
        ([-7, 7, float("nan")], [0, 255, 128]),
    ],
)
def test_channels(pixel, shown):
    image = np.array(pixel, "float32").reshape(1, 1, 1, -1)
    grid = kg.callbacks.image_grid(image, scale=1, gap=0)
    np.testing.assert_array_equal(grid, np.array(shown).reshape(1, 1, 3))


def test_defaults():
    # Four by four; 8 pixels become 64, and 64 stay 64.
    assert kg.callbacks.image_grid(np.zeros((13, 8, 8, 1))).shape == (266, 266, 3)
    assert kg.callbacks.image_grid(np.zeros((2, 64, 64, 3))).shape == (68, 134, 3)
    # No empty columns.
    assert kg.callbacks.image_grid(np.zeros((2, 64, 64, 3)), 9).shape == (68, 134, 3)


def test_another_range():
    images = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1))
    again = kg.callbacks.image_grid(0.5 * (images + 1), value_range=(0, 1))
    assert np.abs(again.astype(int) - kg.callbacks.image_grid(images)).max() <= 1


@pytest.mark.parametrize("shape", [(8, 8, 1), (0, 8, 8, 1), (1, 8, 8, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"images \(N, H, W, C\)"):
        kg.callbacks.image_grid(np.zeros(shape))


@pytest.mark.parametrize("name, value", [("columns", 0), ("scale", 1.5), ("gap", -1)])
def test_other_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least"):
        kg.callbacks.image_grid(np.zeros((1, 8, 8, 1)), **{name: value})


def test_settings_come_back_from_a_picture(tmp_path):
    path = tmp_path / "heart.png"
    image = np.linspace(-1, 1, 5 * 4 * 3, dtype="float32").reshape(5, 4, 3)
    settings = {
        "prompts": ["a red heart", "ein Herz, größer ♥"],
        "seed": np.int64(3),
        "guidance_scale": np.array([2.0, 7.5]),
        "negative_prompts": None,
    }
    kg.callbacks.save_image(path, image, **settings)
    found = kg.callbacks.read_settings(path)
    assert found == {
        **settings,
        "seed": 3,
        "guidance_scale": [2.0, 7.5],
    }
    from PIL import Image

    wanted = np.floor((image + 1) * 127.5 + 0.5)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), wanted)
    grey = np.arange(20, dtype="uint8").reshape(5, 4)
    kg.callbacks.save_image(path, grey)
    assert kg.callbacks.read_settings(path) == {}
    np.testing.assert_array_equal(np.asarray(Image.open(path)), grey)


def test_pictures_that_are_refused(tmp_path):
    image = np.zeros((4, 4, 3), "float32")
    with pytest.raises(ValueError, match="must end in .png"):
        kg.callbacks.save_image(tmp_path / "a.jpg", image)
    with pytest.raises(ValueError, match="settings must be strings"):
        kg.callbacks.save_image(tmp_path / "a.png", image, model=object())
    with pytest.raises(ValueError, match="1 to 4 channels"):
        kg.callbacks.save_image(tmp_path / "a.png", np.zeros((4, 4, 5), "float32"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match="no PNG"):
            kg.callbacks.read_settings(tmp_path / name)
