"""Damaged and hostile files, by program: each works, or a `ValueError` names it.

The files of each kind are cut, flipped and given senseless values, by a seed. Reading
one may take 10 s and 1 GB, runs nothing and writes nothing outside of its folder.
`KG_DAMAGED=30` tries that many of each kind, `KG_SEED` others.
"""

import contextlib
import functools
import gc
import io
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
import zipfile

import h5py
import keras
import numpy as np
import PIL.Image
import pytest

import keras_genai as kg

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="the same code reads files on each backend; this one compiles nothing",
)
COUNT = int(os.environ.get("KG_DAMAGED", "12"))
SEED = int(os.environ.get("KG_SEED", "0"))
SECONDS, BYTES = 10, 2**30
HOSTILE = {"class_name": "X", "module": "evil", "config": {}, "registered_name": "X"}
VALUES = [None, -1, 0, "x", [], {}, 1.5, True, 10**9, float("nan"), [None], HOSTILE]


# What a reader may not do


class Watch:
    """Notes what is written outside of a folder, run or imported."""

    folder = None
    seen = ()

    def __call__(self, event, args):
        if self.folder is None:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            path, mode = os.path.abspath(os.fsdecode(args[0])), str(args[1])
            writes = any(letter in mode for letter in "wax+")
            if writes and not path.startswith((self.folder, "/dev/", "/proc/")):
                self.seen.append(f"writes {path}")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "pickle.find_class"):
            self.seen.append(f"{event} {str(args)[:80]}")
        elif event == "import" and str(args[0]).partition(".")[0] == "evil":
            self.seen.append(f"imports {args[0]}")


WATCH = Watch()


class Hung(BaseException):
    """A file took more than its time."""


@contextlib.contextmanager
def limits(folder):
    """A time and memory limit, and the watch."""
    resource = pytest.importorskip("resource")
    if not hasattr(WATCH, "hooked"):
        sys.addaudithook(WATCH)
        WATCH.hooked = True
    status = pathlib.Path("/proc/self/status").read_text()
    (used,) = (line.split()[1] for line in status.splitlines() if "VmData" in line)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)

    def hung(signum, frame):
        raise Hung

    handler = signal.signal(signal.SIGALRM, hung)
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(used) + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    WATCH.folder, WATCH.seen = str(folder), []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        WATCH.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


def attempt(read, folder, name):
    """`(class, detail)` of one file: accepted, clear, or what is wrong."""
    began = time.monotonic()
    try:
        with limits(folder):
            read(folder)
        found = "accepted", ""
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {str(error)[:200]} ({where.name})"
        names = str(folder) in str(error) or pathlib.Path(name).name in str(error)
        kind = "clear" if names else "unnamed"
        clear = isinstance(error, ValueError | FileNotFoundError)
        if not clear or isinstance(error, UnicodeError):
            kind = "hung" if isinstance(error, Hung) else "raw"
        found = kind, detail
    if WATCH.seen:
        return "escaped", "; ".join(WATCH.seen)
    if time.monotonic() - began > SECONDS:
        return "hung", found[1]
    return found


# How files are damaged


def flipped(content, dice, count=3):
    content = bytearray(content)
    for _ in range(count if content else 0):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def cut(content, dice):
    return content[: dice.randrange(len(content) + 1)]


def other(content, dice):
    """Something else altogether."""
    forms = (b"", b"null", b"[]", b"[" * 100_000, b"\xff\xfe", b"1" * 5000, b"{}")
    return dice.choice(forms)


def places(tree, place=()):
    """Paths of all values in a tree of JSON."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*place, key)
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))


def changed(content, dice):
    """JSON with one value that makes no sense."""
    tree = json.loads(content)
    *path, last = dice.choice(list(places(tree)))
    inner = tree
    for key in path:
        inner = inner[key]
    inner[last] = dice.choice(VALUES)
    return json.dumps(tree).encode()


def header(content, dice):
    """A safetensors file with another header of the same length and the same data."""
    length = struct.unpack("<Q", content[:8])[0]
    made = changed(content[8 : 8 + length], dice)
    return struct.pack("<Q", len(made)) + made + content[8 + length :]


def member(how, pick=None):
    """A zip archive of which one member is damaged by `how`, and zipped well."""

    def damage(content, dice):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        name = pick or dice.choice(sorted(parts))
        parts[name] = how(parts[name], dice)
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
        return made.getvalue()

    return damage


def array(content, dice):
    """A `.npy` file of another shape, type or size, or of numbers that are not."""
    given = np.load(io.BytesIO(content))
    made = io.BytesIO()
    if dice.random() < 0.3:
        shape = (10 ** dice.choice((9, 13)),)
        form = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(made, form)
        return made.getvalue()
    forms = (
        np.zeros((3, 3), "float32"),
        np.full(given.shape, "evil"),
        np.full(given.shape, 1j),
        np.zeros(given.shape, "uint8"),
        np.full(given.shape, np.nan, "float32"),
    )
    np.save(made, dice.choice(forms))
    return made.getvalue()


def stored(content, dice):
    """What `Resume` stores beside its arrays, with one value that makes no sense."""
    made = io.BytesIO()
    text = changed(np.load(io.BytesIO(content)).tobytes(), dice)
    np.save(made, np.frombuffer(text, np.uint8))
    return made.getvalue()


def weights(content, dice):
    """An HDF5 file of which one array is another, is larger, or lies elsewhere."""
    made, names = io.BytesIO(content), []
    with h5py.File(made, "r+") as file:
        file.visit(names.append)
        arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
        name = dice.choice(arrays)
        shape = file[name].shape
        outside = [("/dev/zero", 0, h5py.h5f.UNLIMITED)]
        del file[name]
        ways = (
            lambda: file.create_dataset(name, (10**10,), "f4", chunks=(10**6,)),
            lambda: file.create_dataset(
                name, data=np.zeros(10**7), compression="gzip", chunks=(10**6,)
            ),
            lambda: file.create_dataset(name, shape, "f4", external=outside),
            lambda: file.create_dataset(name, data=np.zeros((*shape, 1), "f4")),
            lambda: file.create_dataset(name, data=np.full(shape, 1j)),
            lambda: file.create_dataset(name, data=np.full(shape, b"evil")),
            lambda: file.create_dataset(name, dtype="f4", data=h5py.Empty("f4")),
            lambda: file.create_group(name),
            lambda: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/x")),
            lambda: file.__setitem__(name, h5py.SoftLink("/nowhere")),
            lambda: None,
        )
        dice.choice(ways)()
    return made.getvalue()


def special(path, dice):
    """Puts what is no plain file in its place."""
    path.unlink()
    form = dice.choice(("folder", "fifo", "loop", "nowhere", "zero"))
    if form == "folder":
        path.mkdir()
    elif form == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path.name, "zero": "/dev/zero"}.get(form, "nowhere"))


BYTEWISE = (flipped, cut, other)


# The kinds of files: name -> (makes a folder, file, how it is damaged, reads)


def saved(make):
    def write(folder):
        model = make()
        model.compile()
        model.save(folder / "model.keras")

    return write


def pretrained(make):
    return lambda folder: make().save_pretrained(folder)


def used(model):
    """A model that was loaded also runs."""
    if isinstance(model, kg.GPT):
        model.generate([[1, 2]], max_new_tokens=1)
    elif isinstance(model, kg.DCGAN):
        model.generate(1, seed=0)


def load(folder):
    used(kg.load_model(folder / "model.keras"))


def dcgan():
    return kg.DCGAN((4, 4, 1), 2, base_filters=2)


SIZES = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2}


def gpt(**kwargs):
    return kg.GPT(
        **SIZES, vocabulary_size=20, max_sequence_length=8, eos_token_id=2, **kwargs
    )


def llama():
    return gpt(**kg.GPT.LLAMA)


def clip():
    towers = {**SIZES, "projection_dim": 4}
    text = {"vocabulary_size": 20, "max_sequence_length": 8, "eos_token_id": 1}
    return kg.CLIP(
        kg.clip.ImageTower((8, 8, 3), 4, **towers),
        kg.clip.TextTower(**towers, **text),
        4,
    )


def clip_resnet():
    tower = kg.clip.ResNetTower((32, 32, 3), (1, 1, 1, 1), 2, projection_dim=4)
    return kg.CLIP(tower, clip().text_tower, 4)


def vit():
    return kg.ViT((8, 8, 3), patch_size=4, **SIZES, num_classes=3)


def bert():
    return kg.BERT(**SIZES, vocabulary_size=20, max_sequence_length=8)


def autoencoder():
    return kg.AutoencoderKL(
        (8, 8, 1),
        latent_channels=2,
        block_channels=(4, 4),
        groups=2,
        layers_per_block=1,
        attention=False,
        discriminator_weight=0,
    )


def ddpm():
    sizes = {"block_channels": (4, 4), "layers_per_block": 1, "groups": 2}
    unet = kg.diffusion.UNet((8, 8, 1), **sizes, attention=(False, False))
    return kg.DDPM(unet, "cosine", num_steps=4)


X = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 1)).astype("float32")


def resume(folder):
    model = dcgan()
    model.compile()
    place = kg.callbacks.Resume(folder / "run.npz", every=1)
    model.fit(X, batch_size=4, epochs=2, verbose=0, callbacks=place)


def begun(folder):
    model = dcgan()
    model.compile()
    model.fit(
        X, batch_size=4, verbose=0, callbacks=kg.callbacks.Resume(folder / "run.npz")
    )


def pictures(folder):
    model = dcgan()
    model.compile()
    grid = kg.callbacks.ImageGrid(folder, n=4)
    model.fit(X, batch_size=8, epochs=2, initial_epoch=1, verbose=0, callbacks=grid)


def picture(folder):
    model = dcgan()
    model.compile()
    grid = kg.callbacks.ImageGrid(folder, n=4)
    model.fit(X, batch_size=8, verbose=0, callbacks=grid)


def words():
    return kg.Tokenizer.characters(["abc def ghi"], special_tokens=["<pad>", "</s>"])


def clip_words(folder, whole=True):
    kg.Tokenizer.train(["a red heart"] * 2, 540, "clip").save(folder)
    if not whole:
        (folder / "tokenizer.json").unlink()


def own_images(folder):
    photos = np.random.default_rng(0).integers(0, 255, (2, 40, 30, 3), "uint8")
    for kind, photo in zip(("png", "jpg"), photos, strict=True):
        PIL.Image.fromarray(photo).save(folder / f"a.{kind}")
    rows = ({"file_name": f"a.{kind}", "text": [kind]} for kind in ("png", "jpg"))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def dataset(folder):
    arrays = {f"{x}_{y}": np.zeros(9, "uint8") for x in "xy" for y in ("train", "test")}
    np.savez(folder / "mnist.npz", **arrays)


def mnist(folder):
    os.environ["KERAS_GENAI_DATA"] = str(folder)
    try:
        kg.datasets.load("mnist")
    finally:
        del os.environ["KERAS_GENAI_DATA"]


JSON = (*BYTEWISE, *[changed] * 9)
KINDS = {
    ".keras": (
        saved(dcgan),
        "model.keras",
        (
            *BYTEWISE,
            *[member(changed, "config.json")] * 6,
            *[member(other), member(cut), member(flipped)],
        ),
        load,
    ),
    "weights of a .keras": (
        saved(dcgan),
        "model.keras",
        (member(weights, "model.weights.h5"),),
        load,
    ),
    "weights": (
        lambda folder: dcgan().save_weights(folder / "model.weights.h5"),
        "model.weights.h5",
        (*BYTEWISE, weights, weights, weights),
        lambda folder: dcgan().load_weights(folder / "model.weights.h5"),
    ),
    ".keras of a GPT": (
        saved(gpt),
        "model.keras",
        (member(changed, "config.json"),),
        load,
    ),
    "Resume": (
        resume,
        "run.npz",
        (
            *BYTEWISE,
            *[member(array), member(array), member(other), member(flipped)],
            *[member(stored, "meta.npy")] * 3,
        ),
        begun,
    ),
    "picture of an earlier run": (
        picture,
        "run-1/epoch-0001.png",
        BYTEWISE,
        pictures,
    ),
    "safetensors": (
        pretrained(gpt),
        "model.safetensors",
        (*BYTEWISE, *[header] * 6),
        lambda folder: used(kg.GPT.from_pretrained(folder)),
    ),
    "tokenizer": (
        lambda folder: words().save(folder),
        "tokenizer.json",
        JSON,
        lambda folder: kg.Tokenizer.load(folder).encode("abc"),
    ),
    **{
        f"{name} of CLIP": (
            functools.partial(clip_words, whole=name != "vocab.json"),
            name,
            JSON,
            lambda folder: kg.Tokenizer.load(folder).encode("A red!"),
        )
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")
    },
    **{
        f"{name} of a folder": (
            own_images,
            name,
            BYTEWISE,
            lambda folder: kg.datasets.folder(folder, 8),
        )
        for name in ("a.png", "a.jpg", "metadata.jsonl")
    },
    "pairs": (
        lambda folder: (folder / "own.csv").write_text('a,b\nc,"d, e"\n'),
        "own.csv",
        BYTEWISE,
        lambda folder: kg.datasets.pairs(folder / "own.csv"),
    ),
    "data set": (dataset, "mnist.npz", BYTEWISE, mnist),
    **{
        f"config.json of {name}": (
            pretrained(make),
            file,
            JSON,
            lambda folder, cls=cls: used(cls.from_pretrained(folder)),
        )
        for name, make, cls, file in (
            ("GPT-2", gpt, kg.GPT, "config.json"),
            ("Llama", llama, kg.GPT, "config.json"),
            ("ViT", vit, kg.ViT, "config.json"),
            ("BERT", bert, kg.BERT, "config.json"),
            ("CLIP", clip, kg.CLIP, "config.json"),
            ("OpenCLIP", clip_resnet, kg.CLIP, "open_clip_config.json"),
            ("CLIP's images", clip, kg.CLIP, "preprocessor_config.json"),
            ("AutoencoderKL", autoencoder, kg.AutoencoderKL, "config.json"),
            ("DDPM", ddpm, kg.DDPM, "config.json"),
            ("DDPM's scheduler", ddpm, kg.DDPM, "scheduler_config.json"),
        )
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_works_or_is_named(kind, tmp_path):
    write, name, ways, read = KINDS[kind]
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole)
    found, detail = attempt(read, whole, name)
    assert found == ("clear" if kind == "data set" else "accepted"), detail
    dice = random.Random(f"{SEED} {kind}")
    content = (whole / name).read_bytes()
    wrong, counts = [], dict.fromkeys(("accepted", "clear"), 0)
    for i in range(COUNT):
        folder = tmp_path / str(i)
        shutil.copytree(whole, folder)
        if i == 0:
            way = special
            special(folder / name, dice)
        else:
            way = ways[i % len(ways)]
            (folder / name).write_bytes(way(content, dice))
        found, detail = attempt(read, folder, name)
        counts[found] = counts.get(found, 0) + 1
        if found not in ("accepted", "clear"):
            wrong.append(f"{found}: {i} {getattr(way, '__name__', way)}: {detail}")
        shutil.rmtree(folder)
        gc.collect(0)
    print(kind, counts)
    assert not wrong, "\n".join(wrong)
