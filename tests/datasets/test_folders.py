"""Folders of images: what is read, in which order, and what is refused or left out."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_genai as kg
from keras_genai import datasets
from keras_genai.backend.devices import Devices
from tests.support.conformance import assert_same_state, host, state
from tests.support.short_run import StopAt

once = pytest.mark.once


def picture(number, height=6, width=8):
    """A photo of one grey, `number`."""
    return Image.fromarray(np.full((height, width, 3), number, "uint8"))


def put(folder, names):
    """Photos of these names; the i-th has the grey 10 * i."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(10 * i, 5 + i, 9).save(path)
    return folder


def greys(images):
    """The number that each photo was made of."""
    return (host(images)[:, 0, 0, 0] / 10).round().astype(int).tolist()


def read(path, *args, **kwargs):
    return datasets.folder(path, 4, *args, value_range=(0, 255), **kwargs)


# What is read


@once
def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    put(tmp_path, ["b/2.png", "b/1.jpg", "a/x/3.webp", "a/z.bmp", "c/q.GIF"])
    put(tmp_path, ["b/.hidden.png", ".cache/1.png", "__MACOSX/1.png"])
    (tmp_path / "b" / "notes.txt").write_text("no image")
    data = read(tmp_path)
    assert sorted(data) == ["class_names", "images", "labels"]
    assert data["class_names"] == ["a", "b", "c"]
    np.testing.assert_array_equal(data["labels"], [0, 0, 1, 1, 2])
    assert data["labels"].dtype == np.int32 and data["images"].dtype == np.float32
    assert data["images"].shape == (5, 4, 4, 3) and greys(data["images"]) == [
        2,
        3,
        1,
        0,
        4,
    ]
    alone = read(tmp_path, labels=None)
    assert list(alone) == ["images"] and greys(alone["images"]) == [2, 3, 1, 0, 4]
    grey = datasets.folder(tmp_path / "a", (4, 6), channels=1, labels=None)
    assert grey["images"].shape == (2, 4, 6, 1) and list(grey) == ["images"]
    assert -1 <= grey["images"].min() <= grey["images"].max() <= 1
    for i, name in enumerate(["a/x/3.webp", "a/z.bmp"]):
        wanted = datasets.prepare(tmp_path / name, (4, 6), channels=1)
        np.testing.assert_array_equal(grey["images"][i], wanted)


@once
def test_what_is_no_class_is_told(tmp_path):
    put(tmp_path, ["a/1.png", "b/1.png", "beside.png"])
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning) as told:
        data = read(tmp_path)
    assert data["class_names"] == ["a", "b"] and len(data["images"]) == 2
    assert "empty in" in str(told[0].message) and "beside.png in" in str(
        told[1].message
    )
    assert {warning.filename for warning in told} == {__file__}


@once
@pytest.mark.parametrize(
    "name, content",
    [
        ("metadata.csv", 'file_name,text\nb/2.png,"a, dog"\n1.png,a cat\n'),
        ("captions.csv", 'n,caption,image\n1,"a, dog",b/2.png\n2,a cat,1.png\n'),
        ("captions.tsv", "b/2.png\ta, dog\n./1.png\ta cat\n"),
        ("captions.txt", "b/2.png\ta, dog\n1.png\ta cat\n"),
        ("captions.txt", 'image,caption\nb/2.png,"a, dog"\n1.png,a cat\n'),
        (
            "metadata.jsonl",
            '{"file_name": "b/2.png", "text": "a, dog"}\n'
            '{"file_name": "1.png", "text": ["a cat"]}\n',
        ),
    ],
)
def test_a_file_of_captions(tmp_path, name, content):
    put(tmp_path, ["1.png", "b/2.png"])
    (tmp_path / name).write_text(content)
    data = read(tmp_path)
    assert sorted(data) == ["captions", "images"]
    assert data["captions"] == ["a, dog", "a cat"] and greys(data["images"]) == [1, 0]
    assert list(read(tmp_path, labels=None)) == ["images"]


@once
def test_captions_of_another_name_and_several_of_an_image(tmp_path):
    photos = put(tmp_path / "photos", ["1.png", "2.png", "3.png"])
    table = tmp_path / "own.tsv"
    table.write_text("filepath\ttitle\n2.png\ta dog\n1.png\ta cat\n2.png\tun perro\n")
    with pytest.warns(UserWarning, match="3.png in .* have no caption in own.tsv"):
        data = read(photos, captions=table)
    assert data["captions"] == [["a dog", "un perro"], ["a cat"]]
    assert greys(data["images"]) == [1, 0]
    (photos / "mine.tsv").write_text("3.png\tx\n1.png\ty\n2.png\tz\n")
    assert read(photos, captions="mine.tsv")["captions"] == ["x", "y", "z"]
    lines = [f"{photos / name}\t{name}" for name in ("3.png", "1.png", "2.png")]
    (photos / "mine.tsv").write_text("\n".join(lines))
    assert read(photos, captions="mine.tsv")["captions"][0] == "3.png"
    with pytest.raises(FileNotFoundError, match="captions must be a file.* no no.tsv"):
        read(photos, captions="no.tsv")
    with pytest.raises(ValueError, match="captions would do nothing"):
        read(photos, captions="mine.tsv", labels=None)


@once
@pytest.mark.parametrize(
    "content, message",
    [
        (
            "file_name,text\n1.png,a\nno.png,b\n",
            "line 3 names 'no.png', which is not t",
        ),
        (
            "file_name,text\n../x.png,a\n/etc/x.png,b\n.,c\n",
            "line 2 .*outside.*; line 4",
        ),
        (
            "file_name,label\n1.png,3\n",
            "no column 'text' or 'caption'.* names 'file_na",
        ),
        ("file_name,text\n1.png\n", "line 2 has 1 column where 2 are expected"),
        ("", "metadata.csv holds no rows"),
    ],
)
def test_faults_of_a_file_of_captions_are_told_by_line(tmp_path, content, message):
    put(tmp_path, ["1.png"])
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
    (tmp_path / "captions.txt").write_text("1.png\ta\n")
    with pytest.raises(
        ValueError, match="several files of captions: metadata.csv, cap"
    ):
        read(tmp_path)


@once
def test_symbolic_links(tmp_path):
    outside = put(tmp_path / "elsewhere", ["1.png", "2.png"])
    inside = put(tmp_path / "photos", ["a/0.png", "b/1.png"])
    (inside / "a" / "in.png").symlink_to(inside / "b" / "1.png")
    (inside / "a" / "out.png").symlink_to(outside / "2.png")
    (inside / "c").symlink_to(outside)
    (inside / "b" / "again").symlink_to(inside)  # a circle
    with pytest.warns(UserWarning, match="a/out.png, c in .* links out of the folder"):
        data = read(inside)
    assert data["class_names"] == ["a", "b"] and greys(data["images"]) == [0, 1, 1]
    data = read(inside, follow_links=True)
    assert data["class_names"] == ["a", "b", "c"]
    assert greys(data["images"]) == [0, 1, 1, 1, 0, 1]
    (inside / "captions.txt").write_text("a/out.png\ta dog\nc/1.png\tx\n")
    with pytest.raises(ValueError, match="'a/out.png', a link out of the folder"):
        read(inside)
    with pytest.warns(UserWarning, match="have no caption"):
        assert greys(read(inside, follow_links=True)["images"]) == [1, 0]


# What cannot be read


def damage(folder):
    """Three of six images that cannot be read, each in its own way."""
    put(folder, [f"{i}.png" for i in range(6)])
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3)).astype("uint8")
    Image.fromarray(noise).save(folder / "1.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2.png").write_bytes(b"")
    (folder / "4.png").write_bytes(b"text")
    return folder


@once
@pytest.mark.parametrize("workers", [1, 3])
def test_broken_files_are_all_named_or_left_out(tmp_path, workers):
    damage(tmp_path)
    message = "3 of 6 images in .* 1.png: .*; 2.png: it is empty; 4.png: it is no image"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, workers=workers)
    with pytest.warns(UserWarning, match=message):
        data = read(tmp_path, skip_broken=True, workers=workers)
    assert greys(data["images"]) == [0, 3, 5]
    (tmp_path / "captions.txt").write_text(
        "".join(f"{i}.png\tn{i}\n" for i in range(6))
    )
    with pytest.warns(UserWarning, match="3 of 6"):
        data = read(tmp_path, skip_broken=True)
    assert data["captions"] == ["n0", "n3", "n5"] and greys(data["images"]) == [0, 3, 5]
    for i in (0, 3, 5):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="None of the images in .* can be read"):
        read(tmp_path, skip_broken=True)


@once
def test_the_lazy_way_finds_what_is_no_image_at_once_and_the_damaged_later(tmp_path):
    damage(tmp_path)
    with pytest.raises(
        ValueError, match="2 of 6 .* 2.png: it is empty; 4.png: it is no"
    ):
        read(tmp_path, lazy=True)
    for name in ("2.png", "4.png"):
        (tmp_path / name).unlink()
    data = read(tmp_path, lazy=True, batch_size=4, shuffle=False)
    with pytest.raises(ValueError, match="1.png cannot be read: .*skip_broken=True"):
        data[0]
    with pytest.warns(UserWarning, match="1 of 4 images"):
        data = read(tmp_path, lazy=True, batch_size=4, shuffle=False, skip_broken=True)
    assert data.files == ["0.png", "3.png", "5.png"] and greys(data[0][0]) == [0, 3, 5]


@once
def test_bad_arguments_are_refused(tmp_path):
    put(tmp_path / "a", ["1.png"])
    (tmp_path / "none").mkdir()
    for path, kwargs, error, message in (
        (tmp_path / "no", {}, FileNotFoundError, "There is no folder .*no"),
        (tmp_path / "a" / "1.png", {}, ValueError, "path must be a folder of images"),
        (
            tmp_path / "none",
            {},
            ValueError,
            "no images in .*none: no files that end in",
        ),
        ("", {}, ValueError, "path must be the path"),
        (
            tmp_path,
            {"labels": "folders"},
            ValueError,
            "labels must be one of inferred,",
        ),
        (tmp_path, {"tokenize": len}, ValueError, "tokenize is for lazy=True"),
        (tmp_path, {"tokenize": 3}, ValueError, "tokenize must be a function"),
        (tmp_path, {"workers": 0}, ValueError, "workers must be an integer of at leas"),
        (tmp_path, {"batch_size": 0}, ValueError, "batch_size must be"),
        (tmp_path, {"seed": -1}, ValueError, "seed must be"),
        (tmp_path, {"lazy": 1}, ValueError, "lazy must be True or False"),
        (
            tmp_path,
            {"resize": "crop"},
            ValueError,
            "resize must be one of shorter, squ",
        ),
    ):
        with pytest.raises(error, match=message):
            datasets.folder(path, 4, **kwargs)
    with pytest.raises(ValueError, match="size must be a positive integer, or .height"):
        datasets.folder(tmp_path, 0)


@once
def test_a_progress_bar(tmp_path, capsys):
    put(tmp_path, ["a/1.png", "a/2.png"])
    read(tmp_path)
    assert not capsys.readouterr().out
    read(tmp_path, verbose=1)
    assert "2/2" in capsys.readouterr().out


# Batches


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    return put(folder, [f"{'ab'[i % 2]}/{i:02d}.png" for i in range(10)])


@once
def test_lazy_batches_are_the_arrays_in_the_order_of_seed_and_epoch(classes):
    whole = datasets.folder(classes, 4)
    data = datasets.folder(classes, 4, lazy=True, batch_size=4, shuffle=False)
    assert isinstance(data, keras.utils.PyDataset) and data.num_batches == 3
    assert data.class_names == ["a", "b"] and data.image_shape == (4, 4, 3)
    batches = [data[i] for i in range(3)]
    for i, name in enumerate(("images", "labels")):
        joined = np.concatenate([batch[i] for batch in batches])
        np.testing.assert_array_equal(joined, whole[name])
        assert joined.dtype == whole[name].dtype
    with pytest.raises(IndexError, match="There are 3 batches; got 3"):
        data[3]
    # The order is that of arrays of the same seed.
    shuffled = datasets.folder(classes, 4, lazy=True, batch_size=4, seed=5)
    arrays = kg.training.data.ArrayDataset(
        (whole["images"], whole["labels"], None), 4, True, 5
    )
    for epoch in (0, 3, 1):
        shuffled.set_epoch(epoch)
        arrays.set_epoch(epoch)
        for i in range(3):
            for ours, wanted in zip(shuffled[i], arrays[i], strict=True):
                np.testing.assert_array_equal(ours, wanted)
    alone = datasets.folder(classes, 4, lazy=True, labels=None, shuffle=False)
    assert len(alone[0]) == 1 and sorted(alone.files) == sorted(data.files)


@once
def test_each_process_reads_its_own_part(classes):
    images = datasets.folder(classes, 4)["images"]
    for index in range(2):
        devices = Devices("processes", 2, process=(index, 2))
        data = datasets.folder(classes, 4, lazy=True, batch_size=3, labels=None)
        arrays = kg.training.data.ArrayDataset
        with pytest.warns(UserWarning, match="The last batch of a pass has 1 samples"):
            data.divide(devices)
        with pytest.warns(UserWarning, match="1 of 10 samples, others in each pass"):
            arrays = arrays((images, None, None), 3, True, 0, devices=devices)
        assert data.num_batches == arrays.num_batches == 3
        assert sorted(data.files) == sorted(
            datasets.folder(classes, 4, lazy=True).files
        )
        for i in range(3):
            np.testing.assert_array_equal(data[i][0], arrays[i][0])
            assert len(data[i][0]) == 2 - index
    with pytest.raises(
        ValueError, match="A batch of 3 samples cannot be divided over 4"
    ):
        data.divide(Devices("processes", 4, 4, (0, 4)))


@once
def test_lazy_captions_are_drawn_by_seed_and_epoch(tmp_path):
    put(tmp_path, [f"{i}.png" for i in range(8)])
    words = ("one", "two", "three")
    lines = [f"{i}.png\t{i} {word}" for i in range(8) for word in words]
    (tmp_path / "captions.txt").write_text("\n".join(lines[:-2]))
    data = read(tmp_path, lazy=True, batch_size=8)
    seen = []
    for epoch in range(12):
        data.set_epoch(epoch)
        (batch,) = data[0]
        numbers = [int(text.split()[0]) for text in batch["captions"]]
        assert numbers == greys(batch["images"]) and sorted(numbers) == list(range(8))
        seen.append(dict(zip(numbers, batch["captions"], strict=True)))
    words = {i: {each[i].split()[1] for each in seen} for i in range(8)}
    assert words[7] == {"one"}
    assert all(words[i] == {"one", "two", "three"} for i in range(7))
    again = read(tmp_path, lazy=True, batch_size=8)
    again.set_epoch(3)
    assert sorted(again[0][0]["captions"]) == sorted(seen[3].values())
    tokenizer = kg.Tokenizer.train(["one two three"] * 2, 600, "clip")
    data.tokenize = lambda texts: tokenizer.batch(texts, length=77)["tokens"]
    (batch,) = data[0]
    assert sorted(batch) == ["images", "tokens"] and batch["tokens"].shape == (8, 77)
    assert tokenizer.decode(batch["tokens"])[0] == seen[11][greys(batch["images"])[0]]


# Training


def trained(data, path=None, stop=None, epochs=3, **kwargs):
    sizes = {"latent_dim": 2, "hidden_units": (4,), "num_classes": 2}
    model = kg.VAE(image_shape=(4, 4, 3), **sizes)
    model.compile(keras.optimizers.Adam(1e-2))
    callbacks = [] if path is None else [kg.callbacks.Resume(path, every=1)]
    if stop is not None:
        callbacks.append(StopAt(*stop))
    try:
        model.fit(*data, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)
    except KeyboardInterrupt:
        assert stop is not None
    return model


def assert_same(model, other):
    assert_same_state(model, [host(v.value) for v in state(other)])


@pytest.mark.in_turn
def test_a_resumed_run_ends_with_the_weights_of_the_unbroken_one(classes, tmp_path):
    def lazy(**kwargs):
        kwargs = {"batch_size": 4, "value_range": (0, 1), **kwargs}
        return datasets.folder(classes, 4, lazy=True, **kwargs)

    arrays = datasets.folder(classes, 4, value_range=(0, 1))
    whole = trained([arrays["images"], arrays["labels"]], batch_size=4)
    path = tmp_path / "run.npz"
    trained([lazy(workers=2)], path, stop=(1, 2))
    for change, what in (
        ({"seed": 1}, "its data is"),
        ({"batch_size": 5}, "its batches per epoch|its batch size"),
        ({"shuffle": False}, "its shuffling is True"),
        ({"resize": "square"}, "its data is"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {what}"):
            trained([lazy(**change)], path)
    assert_same(trained([lazy()], path), whole)
