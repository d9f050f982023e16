"""Photos are prepared as transformers' image processors do."""

import json
import os

import keras
import numpy as np
import pytest
from PIL import Image

from keras_genai import datasets
from keras_genai.datasets import preparation

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.once

SIZES = [(427, 640), (300, 200), (97, 355), (224, 224), (31, 29), (225, 223), (2, 9)]


@pytest.fixture(scope="module")
def photos():
    """Photographs cut to odd sizes, as uint8 `(H, W, 3)`."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    return [images[i % 2][:h, :w] for i, (h, w) in enumerate(SIZES)]


def theirs(name, photos, **kwargs):
    """The values in [0, 1] that a processor of transformers makes, channels last."""
    from transformers.models.clip import image_processing_pil_clip as clip
    from transformers.models.siglip import image_processing_pil_siglip as siglip

    made = {
        "clip": clip.CLIPImageProcessorPil,
        "siglip": siglip.SiglipImageProcessorPil,
    }[name](do_normalize=False, **kwargs)
    values = made(photos, return_tensors="np")["pixel_values"]
    return np.moveaxis(values, 1, -1)


@pytest.mark.parametrize("size", [224, 32, 45])
def test_as_clips_and_siglips_processors(photos, size):
    square = {"height": size, "width": size}
    for ours, wanted in (
        (
            datasets.prepare(photos, size, value_range=(0, 1)),
            theirs("clip", photos, size={"shortest_edge": size}, crop_size=square),
        ),
        (
            datasets.prepare(photos, size, resize="square", value_range=(0, 1)),
            theirs("siglip", photos, size=square),
        ),
    ):
        assert ours.shape == (len(photos), size, size, 3) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)


def test_files_images_and_arrays_are_prepared_alike(photos, tmp_path):
    photo = photos[1]
    Image.fromarray(photo).save(tmp_path / "a.png")
    wanted = datasets.prepare(photo, 64)
    assert wanted.shape == (64, 64, 3)
    assert (wanted.min(), wanted.max()) >= (-1, -1) and wanted.max() <= 1
    for same in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(photo),
        photo.astype("uint16") * 257,
    ):
        np.testing.assert_array_equal(datasets.prepare(same, 64), wanted)
    # Floats are resized without rounding; bytes are rounded twice, to steps of 2 / 255.
    floats = (photo / 127.5 - 1).astype("float32")
    for same in (floats, keras.ops.convert_to_tensor(floats)):
        made = datasets.prepare(same, 64)
        assert np.abs(made - wanted).max() <= 2 / 255 + 1e-6
        assert np.abs(made - wanted).mean() < 1 / 255
    both = datasets.prepare(np.stack([photo, photo]), 64)
    np.testing.assert_array_equal(both, np.stack([wanted, wanted]))


def test_sides_shorter_side_and_sizes_that_are_not_square(photos):
    kwargs = {"size": {"shortest_edge": 80}, "crop_size": {"height": 48, "width": 64}}
    wanted = theirs("clip", photos, **kwargs)
    ours = datasets.prepare(photos, (48, 64), shorter_side=80, value_range=(0, 1))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)
    wide = np.zeros((10, 40, 3), "uint8")
    wide[:, 10:30] = 255
    # All of the height and the middle half of the width.
    made = datasets.prepare(wide, (5, 10), interpolation="box", value_range=(0, 1))
    assert made.shape == (5, 10, 3) and made.min() == 1.0
    sides = preparation.Resizing((7, 5), "shorter", None, "bicubic").sides
    for height in range(1, 40):
        for width in range(1, 40):
            h, w = sides(height, width)
            assert h >= 7 and w >= 5 and (h == 7 or w == 5)


def upright():
    """A picture of which each corner has its own colour, `(6, 4, 3)`."""
    picture = np.full((6, 4, 3), 128, "uint8")
    picture[0, 0], picture[0, -1], picture[-1, 0] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    )
    return picture


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation, tmp_path):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(upright())
    stored = image.transpose(turns[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    made = datasets.prepare(tmp_path / "a.png", (6, 4), value_range=(0, 255))
    np.testing.assert_array_equal(made, upright())


def test_every_kind_of_pixel(tmp_path):
    grey = np.arange(0, 256, 16, dtype="uint8").reshape(4, 4)
    colour = np.stack([grey, grey.T, 255 - grey], -1)
    opacity = np.full((4, 4, 1), 255, "uint8")
    opacity[0] = 0
    opacity[1] = 128
    clear = np.concatenate([colour, opacity], -1)
    mixed = colour * (opacity / 255.0) + 255 - opacity
    palette = Image.fromarray(colour).quantize(16)
    see_through = Image.fromarray(grey)
    wanted = {
        "L.png": (Image.fromarray(grey), np.repeat(grey[..., None], 3, -1)),
        "RGBA.png": (Image.fromarray(clear), mixed),
        "RGBA.webp": (Image.fromarray(clear), mixed),
        "LA.png": (
            Image.merge(
                "LA", [Image.fromarray(grey), Image.fromarray(opacity[..., 0])]
            ),
            np.repeat(grey[..., None] * (opacity / 255.0) + 255 - opacity, 3, -1),
        ),
        "P.gif": (palette, np.asarray(palette.convert("RGB"))),
        "1.png": (
            Image.fromarray(grey > 100),
            np.repeat(255.0 * (grey > 100)[..., None], 3, -1),
        ),
        "I16.png": (
            Image.fromarray(grey.astype("uint16") * 257 + 60),
            np.repeat(grey[..., None], 3, -1),
        ),
        "I16.tiff": (
            Image.fromarray((grey * 257.0 - (grey > 0) * 60).astype("uint16")),
            np.repeat(grey[..., None], 3, -1),
        ),
        "CMYK.tiff": (Image.fromarray(colour).convert("CMYK"), colour),
    }
    for name, (image, values) in wanted.items():
        image.save(tmp_path / name, lossless=True)
        made = datasets.prepare(tmp_path / name, 4, value_range=(0, 255))
        assert np.abs(made - values).max() <= 1.01, name
        if name in ("RGBA.png", "L.png", "P.gif"):  # as the reference's own
            theirs_ = 255 * theirs("siglip", [image], size={"height": 4, "width": 4})
            np.testing.assert_allclose(made[None], theirs_, rtol=0, atol=1e-4)
    # One colour of a palette or of grey that stands for nothing at all.
    see_through.save(tmp_path / "t.png", transparency=16)
    made = datasets.prepare(tmp_path / "t.png", 4, value_range=(0, 255))
    assert made[0, 1].tolist() == [255, 255, 255] and made[0, 2, 0] == 32
    grey_again = datasets.prepare(
        tmp_path / "L.png", 4, channels=1, value_range=(0, 255)
    )
    np.testing.assert_array_equal(grey_again[..., 0], grey)
    floats = (clear / 127.5 - 1).astype("float32")
    made = datasets.prepare(floats, 4, value_range=(0, 255))
    np.testing.assert_allclose(made, mixed, rtol=0, atol=1e-3)
    weights = [0.299, 0.587, 0.114]
    made = datasets.prepare(floats[..., :3], 4, channels=1, value_range=(0, 255))
    np.testing.assert_allclose(made[..., 0], colour @ weights, rtol=0, atol=1e-3)


def test_bad_photos_are_named(tmp_path):
    picture = np.zeros((5, 6, 3), "uint8")
    for images, what in (
        ([], "images must be at least one photo"),
        ([picture, 3], r"images\[1\] must be the path of a file, an image of Pillow's"),
        (np.zeros((5, 6, 7), "uint8"), "images must be .* 1, 3 or 4 channels"),
        (np.zeros((0, 6, 3), "uint8"), "1, 3 or 4 channels; got an array of the shape"),
        (np.zeros((5, 6, 3), "int64"), "images must be of uint8, uint16 or floats"),
        (picture.astype("float32") + 2, r"in \[-1, 1\]; got values from 2 to 2.*127.5"),
        (np.full((5, 6, 3), np.nan, "float32"), r"in \[-1, 1\]; got values from nan"),
        (
            [picture, tmp_path / "no.png"],
            r"images\[1\], .*no.png, cannot be read: No suc",
        ),
        (Image.fromarray(np.zeros((3, 3), "float32")), "its values are floats"),
        (
            Image.fromarray(np.full((3, 3), 2**20, "int32")),
            "more than 16 bits",
        ),
    ):
        with pytest.raises(ValueError, match=what):
            datasets.prepare(images, 4)
    for kwargs, what in (
        ({"size": 0}, "size must be a positive integer, or .height, .*65536; got 0"),
        ({"size": (3,)}, "size must be"),
        ({"size": 4, "resize": "longer"}, "resize must be one of shorter, square"),
        ({"size": 4, "shorter_side": 3}, "shorter_side must be at least the size, 4"),
        ({"size": 4, "resize": "square", "shorter_side": 8}, "is for resize='shorter'"),
        ({"size": 4, "interpolation": "cubic"}, "interpolation must be one of nearest"),
        ({"size": 4, "channels": 2}, "channels must be one of 1, 3"),
        ({"size": 4, "value_range": (1, 0)}, "low < high"),
    ):
        with pytest.raises(ValueError, match=what):
            datasets.prepare(picture, **kwargs)


def test_floats_that_may_be_in_another_range_are_told(photos):
    floats = (photos[1] / 255).astype("float32")
    with pytest.warns(
        UserWarning, match="images holds floats from 0.* 2 .* images - "
    ) as w:
        datasets.prepare(floats, 8)
    assert w[0].filename == __file__


def test_no_program_is_started_for_a_file(tmp_path):
    """EPS is drawn by Ghostscript, in another process."""
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    (tmp_path / "a.png").write_bytes(text)
    with pytest.raises(ValueError, match="it is no image of PNG, JPEG"):
        datasets.prepare(tmp_path / "a.png", 4)


def test_published_configurations(photos):
    clip = transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil
    siglip = transformers.models.siglip.image_processing_pil_siglip
    for processor in (
        clip(),
        clip(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 24}),
        clip(size={"shortest_edge": 32}, crop_size=32, resample=2),
        siglip.SiglipImageProcessorPil(size={"height": 20, "width": 24}),
    ):
        config = json.loads(json.dumps(processor.to_dict()))
        how = preparation.of_processor(config)
        mean, std = how.pop("mean"), how.pop("std")
        ours = datasets.prepare(photos, **how, value_range=(0, 1))
        wanted = processor(photos, return_tensors="np")["pixel_values"]
        made = (ours - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(np.moveaxis(made, -1, 1), wanted, rtol=0, atol=1e-5)
    old = {"size": 224, "crop_size": 224, "do_center_crop": True}
    plain = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert preparation.of_processor({**old, **plain})["resize"] == "shorter"
    assert preparation.of_processor({"size": 224, **plain})["resize"] == "square"
    for change, what in (
        ({"do_resize": False}, "do_resize must be true; it is False"),
        ({"resample": 9}, "resample must be one of 0, 1"),
        ({"rescale_factor": 1.0}, "rescale_factor must be 1 / 255"),
        ({"size": {"longest_edge": 3}}, "size must be a height and a width, or a sho"),
        ({"crop_size": 300}, "crop_size must be at most the shortest edge, 224"),
        ({"do_center_crop": False, "size": {"shortest_edge": 3}}, "crop_size must be"),
        ({"image_mean": [1]}, "image_mean must be a list of three numbers"),
        ({"image_std": [0, 1, 1]}, "image_std must be above 0"),
    ):
        with pytest.raises(ValueError, match=f"preprocessor_config.json: {what}"):
            preparation.of_processor({**old, **plain, **change})


def test_a_path_may_be_of_any_kind(tmp_path):
    Image.fromarray(upright()).save(tmp_path / "a.jpg")

    class Path:
        def __fspath__(self):
            return os.fspath(tmp_path / "a.jpg")

    assert datasets.prepare(Path(), 4).shape == (4, 4, 3)
