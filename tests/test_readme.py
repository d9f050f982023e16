"""The README: its blocks run in order as they are typed; what it names is there."""

import functools
import inspect
import json
import pathlib
import re
import tomllib

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.datasets import _files
from keras_genai.diffusion import dit
from keras_genai.dream import pretrained
from keras_genai.vaes import vqvae

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
# Names in the README's prose that are no attributes of the package or of Keras: of
# PyTorch, of the surroundings, arguments, and the parts of `tools/benchmark.py`.
ELSEWHERE = {"DataLoader", "KERAS_BACKEND", "TF_CONFIG", "torch", "batch_size"}
ELSEWHERE |= {"mixed_float16", "mixed_bfloat16", "steps_per_execution"}
ELSEWHERE |= {"vae", "vqvae", "autoencoder", "transformer", "translation"}
UNET = {"block_channels": (4, 4), "groups": 2, "attention": (False, False)}
LINES = {"flags": re.M | re.S}
ROWS = 16  # of a data set, and in one `fit`


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, **LINES)


# What a name stands for


def commands():
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def test_commands_and_links_name_what_is_there():
    used = re.findall(r"(?:tools|tutorials)/[\w/]+\.\w+", README)
    used += re.findall(r"\]\(([\w./]+)\)", re.sub(r"^```.*?^```", "", README, **LINES))
    assert {"tools/quickstart.py", "tools/benchmarks.md"} <= set(used)
    for path in used:
        assert (ROOT / path).exists(), path
    for path, flag in re.findall(r"`python\s+(tools/\w+\.py)[^`]* (--\w+)", README):
        assert f'"{flag}"' in (ROOT / path).read_text("utf-8"), (path, flag)
    for name in re.findall(r"fetch_data\.py\s+([\w ]+)`", README):
        fetched = (ROOT / "tools/fetch_data.py").read_text("utf-8")
        assert all(f'"{part}"' in fetched for part in name.split()), name


def test_extras_are_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = set()
    for line in commands():
        if line.startswith("pip install"):
            (wanted,) = re.findall(r'pip install -e "\.\[([\w,]+)\]"', line)
            named |= set(wanted.split(","))
    named |= set(re.findall(r"`\[(\w+)\]`", README))
    assert {"jax", "torch", "tensorflow", "callbacks", "onnx"} <= named <= set(extras)


def resolved(name):
    """What a dotted name of the package is."""
    found = kg
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


def test_names_of_the_package_exist():
    for name in set(re.findall(r"\bkg(?:\.[A-Za-z_]\w*)+", README)):
        resolved(name)
    # Names in prose alone: of the package, of its classes, of Keras or of PyTorch.
    places = [kg, kg.callbacks, kg.datasets, kg.metrics, kg.layers, kg.backend]
    places += [thing for thing in vars(kg).values() if inspect.isclass(thing)]
    places += [
        keras.callbacks,
        keras.utils,
        keras.optimizers,
        kg.GenerativeModel,
    ]
    prose = re.sub(r"^```.*?^```", "", README, **LINES)
    for name in set(re.findall(r"`([A-Za-z]\w*)(?:\([^`]*\))?`", prose)) - ELSEWHERE:
        assert any(hasattr(place, name) for place in places), name


# The blocks


def tiny_models(folder):
    """A folder for each id of the hub that the README names, in its layout."""
    verses = kg.datasets.pairs("verses")["source"][:300]
    pieces = kg.Tokenizer.train(verses, 300)
    words = kg.Tokenizer.train(verses, 200, "wordpiece", lowercase=True)
    size = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2}
    marian_size = marian_tokenizer(folder / "opus", verses)
    pairs = kg.Tokenizer.train(verses, 520, kind="clip")
    autoencoder = {"layers_per_block": 1, "groups": 2, "discriminator_filters": 2}
    models = {
        "openai-community/gpt2": kg.GPT(
            max_sequence_length=48, tokenizer=pieces, **size
        ),
        "sentence-transformers/all-MiniLM-L6-v2": kg.BERT(
            max_sequence_length=16, tokenizer=words, **size
        ),
        "google/vit-base-patch16-224": kg.ViT(num_classes=1000, **size),
        "openai/clip-vit-base-patch32": kg.CLIP(
            kg.clip.ImageTower((224, 224, 3), 32, projection_dim=8, **size),
            kg.clip.TextTower(
                520, 16, projection_dim=8, eos_token_id=pairs.eos_token_id, **size
            ),
            8,
            tokenizer=pairs,
        ),
        "google/ddpm-cifar10-32": kg.DDPM(kg.UNet((32, 32, 3), **UNET)),
        "stabilityai/sd-vae-ft-mse": kg.AutoencoderKL(
            (32, 32, 3), block_channels=(2, 2, 4, 4), **autoencoder
        ),
        "Helsinki-NLP/opus-mt-en-es": kg.Translator(
            vocabulary_size=marian_size,
            pad_token_id=marian_size - 1,
            decoder_start_token_id=marian_size - 1,
            max_sequence_length=64,
            positions="sinusoidal_halves",
            activation="silu",
            logits_bias=True,
            eos_token_id=0,
            **size,
        ),
    }
    folders = {}
    for name, model in models.items():
        folders[name] = folder / name.split("/")[1]
        model.save_pretrained(folders[name])
    for path in (folder / "opus").iterdir():
        path.rename(folders["Helsinki-NLP/opus-mt-en-es"] / path.name)
    return folders


def marian_tokenizer(folder, verses):
    """Two sentencepiece models and their table, as Marian's folders have them."""
    import sentencepiece

    folder.mkdir()
    (folder / "lines.txt").write_text("\n".join(verses), "utf-8")
    for name in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "lines.txt"),
            model_prefix=str(folder / name),
            vocab_size=100,
            minloglevel=2,
        )
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    model = sentencepiece.SentencePieceProcessor(str(folder / "source.spm"))
    pieces = [model.id_to_piece(i) for i in range(3, model.vocab_size())]
    table = {p: i for i, p in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(table), "utf-8")
    return len(table)


def capped(monkeypatch, owner, name, **most):
    """Lets a function's arguments, given or left out, be no more than these."""
    function = getattr(owner, name)
    signature = inspect.signature(function)

    def run(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for argument, value in most.items():
            given = bound.arguments[argument]
            bound.arguments[argument] = value if given is None else min(given, value)
        return function(*bound.args, **bound.kwargs)

    monkeypatch.setattr(owner, name, run)


def shorten(monkeypatch, folder):
    """Few rows and steps, small networks, files in the place of downloads."""
    import huggingface_hub

    load, text = kg.datasets.load, kg.datasets.text
    ddpm = kg.DDPM
    fit, read = kg.GenerativeModel.fit, _files.read_cached
    folders = tiny_models(folder)

    def few_images(name, *args):
        return tuple((x[:ROWS], y[:ROWS]) for x, y in load(name, *args))

    def short_texts(name):
        return {title: work[:2000] for title, work in text(name).items()}

    def short_fit(self, x, *args, epochs=1, batch_size=None, **kwargs):
        args = [a[:ROWS] for a in args]
        epochs, size = min(epochs, 5), min(batch_size or 32, ROWS)
        return fit(
            self, x[:ROWS], *args, epochs=epochs, batch_size=size, verbose=0, **kwargs
        )

    def fetched(name):
        if name == "photographs":
            return {
                "chelsea": np.arange(48 * 60 * 3).reshape(48, 60, 3).astype("uint8")
            }
        return read(name)

    def small_ddpm(network=None, *args, **kwargs):
        if network is None:
            size, classes = kwargs["image_shape"], kwargs["num_classes"]
            network = kg.UNet(size, num_classes=classes, **UNET)
        return ddpm(network, *args, **kwargs)

    small_ddpm.from_pretrained = ddpm.from_pretrained
    capped(monkeypatch, kg.VAE, "log_likelihood", importance_samples=50)
    capped(monkeypatch, ddpm, "inpaint", num_steps=4, resamplings=2)
    # One real export will do; it is a process of its own.
    monkeypatch.setattr(ddpm, "export", lambda self, path: pathlib.Path(path).mkdir())
    monkeypatch.setattr(kg, "DDPM", small_ddpm)
    prior = functools.partial(kg.PixelCNN, filters=8, blocks=1)
    monkeypatch.setattr(vqvae, "PixelCNN", prior)
    monkeypatch.setattr(kg.datasets, "load", few_images)
    monkeypatch.setattr(kg.datasets, "text", short_texts)
    monkeypatch.setattr(_files, "read_cached", fetched)
    monkeypatch.setattr(kg.GenerativeModel, "fit", short_fit)
    monkeypatch.setitem(dit.SIZES, "S", (1, 16, 2))
    table = tuple((1, 4, *rest) for _, _, *rest in pretrained.MOBILENET_V2)
    monkeypatch.setattr(pretrained, "MOBILENET_V2", table)
    monkeypatch.setattr(kg.dream, "load", lambda name: pretrained.NETWORKS[name]())
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: str(folders[name])
    )


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="one text: it runs on one backend"
)
@pytest.mark.filterwarnings("ignore:FID of 16 samples")
@pytest.mark.slow
def test_the_blocks_run_in_order(monkeypatch, tmp_path):
    for package in ("safetensors", "huggingface_hub", "tokenizers", "sentencepiece"):
        pytest.importorskip(package)
    for package in ("tensorflow", "PIL", "tensorboard"):
        pytest.importorskip(package)
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())  # put back at the end
    (tmp_path / "hub").mkdir()
    shorten(monkeypatch, tmp_path / "hub")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"README.md, block {number + 1}", "exec"), names)
    assert names["boots"].shape == (16, 28, 28, 1)
    assert names["samples"].shape == (16, 28, 28, 1)
    assert names["nats"].shape == (ROWS,) and np.isfinite(names["nats"]).all()
    assert names["rows"].shape[1] == names["gpt"].max_sequence_length + 1
    assert names["photos"].shape == (1, 224, 224, 3)
    assert names["latents"].shape == (1, 28, 28, 4)
    assert names["classes"].shape == (1, 1000)
    assert names["vectors"].shape[0] == 2
    assert len(names["index"].vectors) == len(names["emoji"]["captions"])
    assert names["dream"].shape == names["photograph"].shape
    for written in ("cgan.keras", "mine.keras", "served/cgan", "served/ddpm"):
        assert pathlib.Path(written).exists(), written
    assert pathlib.Path("logs/run-1/best.keras").exists()
