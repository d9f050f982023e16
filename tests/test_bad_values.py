"""Bad values for the arguments of public constructors and methods: a seeded sample.

Each call has one argument replaced by a value that it cannot mean. It must be refused
by an error of the package that names the argument, before anything is done: no error
from inside NumPy or a backend, no senseless value taken, nothing that hangs.
"""

import inspect
import random
import signal

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.utils import arguments, validation

pytestmark = pytest.mark.once

SAMPLE = 1_800


class Thing:
    """An object that is nothing that the package knows."""


VALUES = {
    "''": "",
    "-1": -1,
    "10**9": 10**9,
    "10**30": 10**30,
    "nan": float("nan"),
    "inf": float("inf"),
    "1e308": 1e308,
    "True": True,
    "a NUL": "a\0b",
    "bytes": b"x",
    "[]": [],
    "{}": {},
    "rows of two lengths": [[1], [2, 3]],
    "class": Thing,
    "object": Thing(),
    "function": lambda *args, **kwargs: None,
    "np.float32(0.5)": np.float32(0.5),
    "empty array": np.zeros((0,), "float32"),
    "rank 5": np.zeros((1,) * 5, "float32"),
    "objects": np.array([None, "a"], dtype=object),
    "complex": 1j,
    "[nan]": [float("nan")],
}
# What may be taken, by the type of the value that stands there today.
TAKEN = {
    bool: {"True"},
    int: {"10**9"},
    float: {"10**9", "np.float32(0.5)", "-1"},
}
SIZES = {"10**9", "10**30"}  # numbers that a count or a rate may well be
# (argument, values that it takes, why).
REASONED = [
    ("seed", {"10**9"}, "a seed as any other"),
    ("k", {"10**9"}, "more than there are candidates"),
    ("scale", {"np.float32(0.5)", "10**9", "10**30"}, "a fixed standard deviation"),
    ("freq_shift", {"-1", "10**30"}, "any finite number"),
    ("log_variance", {"-1", "10**30"}, "any finite number"),
    ("shift_factor", {"-1", "10**30"}, "any finite number"),
    ("stream", {"''"}, "no name"),
    ("texts", {"''", "a NUL"}, "a text of no words, or with a character as any"),
    ("data", {"-1", "a NUL", "10**9"}, "a name or number of the caller's"),
    ("temperature", {"np.float32(0.5)", "10**9", "10**30"}, "one that stays"),
]


def targets():
    """(function, its good arguments, the argument to vary, the good value)."""
    small = {"image_shape": (8, 8, 1)}
    text = {
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "vocabulary_size": 20,
        "max_sequence_length": 8,
    }
    gan = {**small, "base_filters": 4, "latent_dim": 4}
    tokens = {"pad_token_id": 0, "eos_token_id": 2}
    extractor = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    images = np.zeros((8, 8, 8, 1), "float32")
    grid = kg.samplers.time_grid(kg.schedules.get("linear"), 4)
    dcgan, gpt = kg.DCGAN(**gan), kg.GPT(**text, **tokens)
    dcgan.compile()
    training = {"x": images, "batch_size": 8, "epochs": 1, "verbose": 0}
    tokenizer = kg.Tokenizer.characters(["abc def"])
    features = np.random.default_rng(0).normal(size=(40, 4))
    both = {"real_features": features, "generated_features": features}
    cnn = kg.CNN((8, 8, 1), 3, filters=(4, 4), hidden_units=(4,))
    pictures = {"content": images[0], "style": images[0] + 0.5}
    layers = {"content_layers": ["conv_1"], "style_layers": ["conv_0"]}
    bert = kg.BERT(**text, mask_token_id=3, pad_token_id=0, num_classes=2)
    translator = kg.Translator(**text, **tokens, decoder_start_token_id=0)
    gaussians = {"mean1": np.zeros(2), "cov1": np.eye(2)}
    gaussians |= {"mean2": np.zeros(2), "cov2": np.eye(2)}
    block = {"num_heads": 2, "intermediate_dim": 8}
    codes = {"codebook_size": 8, "latent_dim": 4}
    tower = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2}
    text_sizes = {"vocabulary_size": 9, "max_sequence_length": 4}
    image_tower = kg.clip.ImageTower((8, 8, 1), 4, **tower)
    text_tower = kg.clip.TextTower(**tower, **text_sizes, eos_token_id=1)
    half = {"mean": 0.5, "std": 0.5}
    clip = kg.CLIP(image_tower, text_tower, 8)
    index = clip.index(images, ["a"] * 8)
    pairs = {"image_embeddings": features[:4], "text_embeddings": features[4:8]}
    made = [
        (kg.DCGAN, gan),
        (kg.CGAN, {**gan, "num_classes": 3}),
        (kg.VAE, {**small, "latent_dim": 2, "hidden_units": (8,)}),
        (kg.VQVAE, {**small, **codes, "filters": 8}),
        (
            kg.PixelCNN,
            {"shape": (2, 2), "vocabulary_size": 8, "filters": 4, "blocks": 1},
        ),
        (kg.GPT, {**text, **tokens}),
        (
            kg.BERT,
            {**text, "mask_token_id": 3, "pad_token_id": 0, "special_tokens": [1]},
        ),
        (kg.Translator, {**text, **tokens, "decoder_start_token_id": 0}),
        (
            kg.ViT,
            {
                **small,
                "patch_size": 4,
                "num_layers": 1,
                "hidden_dim": 8,
                "num_heads": 2,
            },
        ),
        (kg.CNN, {**small, "num_classes": 3, "filters": (4,), "hidden_units": (4,)}),
        (kg.CLIP, {"image_tower": image_tower, "text_tower": text_tower, **half}),
        (kg.clip.ImageTower, {**small, "patch_size": 4, **tower}),
        (kg.clip.TextTower, {**tower, **text_sizes, "eos_token_id": 1}),
        (kg.clip.ResNetTower, {"image_shape": (32, 32, 3), "filters": 2}),
        (clip.encode_image, {"images": images}),
        (clip.encode_text, {"texts": [[3, 4, 1]]}),
        (clip.similarity, {"images": images, "texts": [[3, 4, 1]]}),
        (clip.rank, {"images": images, "texts": [[3, 4, 1]], "k": 2}),
        (index.search, {"query": [0.5] * 8, "k": 2}),
        (index.add, {"images": images, "items": ["a"] * 8}),
        (kg.metrics.recall_at_k, pairs | {"captions": ["a", "b", "c", "d"]}),
        (kg.metrics.clip_score, pairs),
        (kg.callbacks.Retrieval, {"images": images, "captions": ["a"] * 8}),
        (kg.clip.LinearProbe, {"clip": clip}),
        (kg.clip.LinearProbe(clip).fit, {"images": images, "labels": [0, 1] * 4}),
        (clip.compile, {}),
        (clip.enable_lora, {"rank": 2}, "rank", "targets", "alpha", "towers"),
        (dcgan.generate, {"n": 2, "batch_size": 2}),
        (gpt.generate, {"prompts": [[5, 6]], "max_new_tokens": 1, "temperature": 1.0}),
        (dcgan.fit, training),
        (dcgan.evaluate, {"x": images, "verbose": 0}),
        (kg.layers.Attention, {}),
        (kg.layers.TransformerBlock, block),
        (kg.layers.VectorQuantizer, codes),
        (kg.layers.GumbelQuantizer, codes),
        (kg.layers.Dropout, {"rate": 0.1}),
        (kg.metrics.FID, {"extractor": extractor}),
        (kg.metrics.fid, both),
        (kg.metrics.kid, {**both, "subsets": 2, "subset_size": 10}),
        (kg.callbacks.Evaluate, {"metrics": kg.metrics.FID(extractor), "x": images}),
        (kg.callbacks.ImageGrid, {"folder": "pictures"}),
        (kg.callbacks.Resume, {"path": "resume.npz"}),
        (kg.callbacks.image_grid, {"images": images}),
        (kg.samplers.ddim, {"grid": grid}),
        (kg.samplers.heun, {"grid": grid}),
        (kg.schedules.Karras, {}),
        (kg.schedules.Discrete, {}),
        (tokenizer.encode, {"texts": ["abc"]}),
        (tokenizer.pad, {"sequences": [[1, 2], [3]], "length": 4}),
        (tokenizer.decode, {"tokens": [1, 2]}),
        (tokenizer.batch, {"texts": ["abc"]}),
        (kg.Tokenizer.characters, {"texts": ["abc"]}),
        (kg.DCGAN, gan, "penalties", "dtype", "label_smoothing", "penalty_interval"),
        (dcgan.compile, {}, "generator_optimizer", "discriminator_optimizer"),
        (gpt.score, {"texts": [[3, 4]]}),
        (bert.classify, {"texts": [[3, 4]]}),
        (translator.translate, {"sentences": [[3, 4]], "max_length": 2}),
        (kg.metrics.frechet_distance, gaussians),
        (kg.metrics.bleu, {"translations": ["a"], "references": ["a"]}),
        (kg.metrics.chrf, {"translations": ["a"], "references": ["a"]}),
        (kg.callbacks.Translations, {"sources": ["a"], "references": ["a"]}),
        (kg.callbacks.save_animation, {"path": "a.gif", "frames": images}),
        (kg.datasets.class_names, {"name": "fashion_mnist"}),
        (kg.datasets.pairs, {}),
        (kg.dream.Direction, {"layer": "conv_0", "vector": np.ones(4)}),
        (
            kg.dream.style_transfer,
            {"model": cnn, **pictures, **layers, "steps": 1, "verbose": 0},
        ),
    ]
    for function, good, *more in made:
        arguments = inspect.signature(function).parameters.values()
        names = {a.name: a.default for a in arguments if a.kind != a.VAR_KEYWORD}
        for name, default in (dict.fromkeys(more) if more else names).items():
            yield function, good, name, good.get(name, default)


def may_be_taken(name, value, good, default):
    """Whether the value makes sense there, for a list of reasons."""
    kind = type(good)
    if value == "True" and name in ("verbose", "animation", "inline", "offset"):
        return True
    if any(name == n and value in values for n, values, _ in REASONED):
        return True
    if callable(good) or isinstance(good, (str, dict)) or good is None:
        # A function where one is asked for; a size where None is a size to find.
        return value in SIZES | {
            "function",
            "True",
            "np.float32(0.5)",
            "{}",
            "[]",
            "''",
        }
    if isinstance(good, (tuple, list, np.ndarray)):
        return value in {"rank 5", "rows of two lengths", "[]", "empty array"}
    return value in TAKEN.get(kind, ()) | (SIZES if kind in (int, float) else set())


@pytest.fixture
def alarm():
    """Ten seconds at most for a call."""

    def late(*_):
        raise TimeoutError("the call did not come back")

    before = signal.signal(signal.SIGALRM, late)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="once is enough")
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs an alarm")
def test_bad_values_are_refused_by_name(alarm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = [(*target, value) for target in targets() for value in VALUES]
    wrong = []
    for function, good, name, default, value in random.Random(0).sample(calls, SAMPLE):
        call = f"{function.__qualname__}({name}={value})"
        alarm(10)
        try:
            function(**{**good, name: VALUES[value]})
        except (ValueError, TypeError, ImportError) as error:
            said = str(error).lower().replace("_", " ")
            words = (name.lower().replace("_", " "), *ALIASES.get(name, ()))
            if not any(word in said for word in words):
                wrong.append(f"{call} is refused without its name: {error!r:.200}")
            elif not _of_the_package(error):
                wrong.append(f"{call} fails inside: {error!r:.200}")
        except Exception as error:
            wrong.append(f"{call} fails inside: {error!r:.200}")
        else:
            if not may_be_taken(name, value, good.get(name, default), default):
                wrong.append(f"{call} is taken")
        finally:
            alarm(0)
    assert not wrong, "\n".join(wrong)


# Other words for an argument in a message.
ALIASES = {
    "labels": ("label", "takes no"),
    "images": ("image",),
    "x": ("image", "data"),
    "y": ("label", "takes no"),
    "prompts": ("prompt", "token"),
    "texts": ("text", "string"),
    "metrics": ("metric",),
    "validation_data": ("data", "image"),
    "sample_weight": ("weight",),
    "dtype": ("dtype",),
    "tokens": ("token",),
    "sentences": ("token",),
    "name": ("there is no",),
    "rotary_scaling": ("rope scaling",),  # the argument of the models
}


def _of_the_package(error):
    """Whether the error was raised on purpose, by the package or by Keras."""
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    place = frame.tb_frame.f_code.co_filename.replace("\\", "/")
    return "keras_genai/" in place or "keras/src" in place


# The checks themselves


def example(
    self, n=None, seed=0, *, rate=0.5, sizes=(1, 2), name=None, loud=False, **options
):
    """Its docstring."""
    return n, seed, rate, sizes, name, loud, options


CHECKED = arguments.checked(
    rate=validation.number("(0, 1]"), sizes=validation.integers(), loud=validation.flag
)(example)


def test_numpys_numbers_become_pythons():
    made = CHECKED(
        None,
        np.int64(3),
        seed=np.uint8(4),
        rate=np.float32(0.5),
        sizes=np.array([5, 6]),
        loud=np.bool_(True),
        more=np.int64(7),
    )
    assert made == (3, 4, 0.5, (5, 6), None, True, {"more": 7})
    types = [type(value) for value in (*made[:3], *made[3], made[5])]
    assert types == [int, int, float, int, int, bool]


def test_signature_and_docstring_stay():
    assert inspect.signature(CHECKED) == inspect.signature(example)
    assert inspect.getfullargspec(CHECKED).kwonlyargs[0] == "rate"
    assert CHECKED.__doc__ == "Its docstring." and CHECKED.__name__ == "example"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"n": 0}, "n must be an integer of at least 1; got 0"),
        ({"n": True}, "n must be an integer of at least 1; got True"),
        ({"n": 10**30}, "n must be an integer .* at most 2147483647"),
        ({"seed": None}, r"seed must be an integer in \[0, 2\*\*63\); got None"),
        ({"rate": 0.0}, r"rate must be in \(0, 1\]; got 0.0"),
        ({"rate": float("nan")}, r"rate must be in \(0, 1\]; got nan"),
        ({"rate": "x"}, r"rate must be in \(0, 1\]; got 'x'"),
        ({"sizes": (1, 0)}, "sizes must be a list of integers, each .*at least 1"),
        ({"sizes": 3}, "sizes must be a list of integers; got 3"),
        ({"name": "a\0"}, "name must be a string that is not empty"),
        ({"loud": 1}, "loud must be True or False; got 1"),
    ],
)
def test_each_check_names_its_argument(given, message):
    with pytest.raises(ValueError, match=message):
        CHECKED(None, **given)


def test_no_check_without_its_argument():
    with pytest.raises(TypeError, match="no argument"):
        arguments.checked(other=validation.flag)(lambda self: None)


def test_models_of_numpys_integers_are_saved_and_loaded(tmp_path):
    one = np.int64(1)
    model = kg.DCGAN((8 * one, 8, 1), 4 * one, base_filters=4 * one)
    model.compile()
    model.save(tmp_path / "dcgan.keras")
    assert kg.load_model(tmp_path / "dcgan.keras").get_config()["base_filters"] == 4
    text = kg.GPT(
        num_layers=one,
        hidden_dim=8 * one,
        num_heads=2 * one,
        vocabulary_size=20 * one,
        max_sequence_length=8,
    )
    assert type(text.get_config()["hidden_dim"]) is int


def test_a_size_beyond_the_memory_is_named():
    with pytest.raises(ValueError, match="latent_dim must be smaller; got 1000000000"):
        kg.VAE(latent_dim=10**9)
    with pytest.raises(ValueError, match="discriminator_filters must be smaller"):
        kg.DCGAN((8, 8, 1), 4, base_filters=4, discriminator_filters=10**9)
