"""The second call: what was compiled for one call is used for no other kind.

Every public method that compiles is found by reading the code of the models. Each has
rows here: calls with a number and with a list, with and without each optional
argument, of another size, in other batches, with an attribute changed. All are made of
one model, there and back, and compared with the same call of a model that has compiled
nothing yet.
"""

import contextlib
import functools
import inspect
import types

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.backend import programs
from keras_genai.training.compiled import CompiledFunctions
from tests.support.conformance import BACKEND, THOROUGH

# And `stream`, a method. The last two are of diffusion's `SamplingLoop`.
ROOTS = {"compiled_once", "run_compiled", "run_in_batches", "batches", "in_batches"}
INSIDE = {"train_step", "test_step", "objective", "stream"}  # a step, not a call
DRAW = np.random.default_rng(0)
IMAGES = DRAW.uniform(-1, 1, (3, 4, 4, 1)).astype("float32")
UNIT = (IMAGES + 1) / 2
NOISE = DRAW.normal(size=(3, 4, 4, 1)).astype("float32")
MASK = np.arange(16).reshape(4, 4) % 3 == 0


def trained(model):
    """The model with weights of some size everywhere, the same each time."""
    draw = np.random.default_rng(1)
    for variable in model.variables:
        if "float" in variable.dtype and variable.shape:
            change = draw.normal(0, 0.2, variable.shape).astype(variable.dtype)
            variable.assign(keras.ops.convert_to_numpy(variable) + change)
    return model


def call(name, *args, **kwargs):
    return lambda model: getattr(model, name)(*args, **kwargs)


def changed(made, **attributes):
    """A call while attributes are others, of the model or, by `a__b`, of a part."""

    def run(model):
        with contextlib.ExitStack() as stack:
            for name, value in attributes.items():
                *path, last = name.split("__")
                holder = functools.reduce(getattr, path, model)
                stack.callback(setattr, holder, last, getattr(holder, last))
                setattr(holder, last, value)
            return made(model)

    return run


def batches(made):
    return lambda model: list(made(model))


# Models, and the calls of each method


def ddpm():
    from tests.support.tiny_ddpm import network

    net = network(num_classes=2)
    return kg.DDPM(
        net, image_shape=(4, 4, 1), num_classes=2, num_steps=2, ema_decay=0.5
    )


def ddpm_rows():
    of = {"labels": [0, 1, 1], "num_steps": 2, "seed": 1}
    ddim = {"sampler": "ddim", **of}
    of_three = {"seed": 2, "batch_size": 2, "num_steps": 2}

    def edited(name, *args, **kwargs):
        given = {"labels": [0, 1, 1], **kwargs}
        return [
            call(name, *args, guidance_scale=2.0, **given),
            call(name, *args, guidance_scale=[2.0, 1.0, 3.0], **given),
        ]

    generate = [
        call("generate", guidance_scale=3.0, **of),
        call("generate", guidance_scale=[3.0, 2.0, 1.0], **of),
        call("generate", **of),
        call("generate", 2, num_steps=2),
        call("generate", **{**of, "batch_size": 2}),
        call("generate", guidance_scale=3.0, noise=NOISE, **of),
        call("generate", guidance_scale=3.0, negative={"labels": [1, 0, 2]}, **of),
        call("generate", guidance_scale=3.0, guidance_rescale=0.7, **of),
        call("generate", guidance_scale=3.0, guidance_rescale=0.3, **of),
        call("generate", guidance_scale=3.0, guidance_interval=(300, 900), **of),
        call("generate", guidance_scale=3.0, guidance_interval=(0, 400), **of),
        call("generate", sampler_options={"eta": 0.5}, **ddim),
        call("generate", sampler_options={"eta": 1.0}, **ddim),
        call("generate", sampler="dpmpp_2m", **of),
        call("generate", **{**of, "num_steps": 3}),
    ]
    generate += [
        changed(generate[2], parameterization="v"),
        changed(generate[2], clip=None),
        changed(generate[2], clip=0.5),
        changed(call("generate", labels=[0, 1, 1], seed=1), num_steps=3),
        changed(call("generate", **of), sampler="euler_ancestral"),
        changed(generate[2], schedule=kg.schedules.get("cosine")),
    ]
    shown = [
        call("generate", guidance_scale=3.0, verbose=1, **of),
        call("generate", guidance_scale=[3.0, 2.0, 1.0], verbose=1, **of),
        call("generate", noise=NOISE, verbose=1, **of),
        changed(call("generate", verbose=1, **of), parameterization="v"),
    ]
    invert = [call("invert", IMAGES, labels=[0, 1, 1], num_steps=2)]
    invert += [call("invert", IMAGES, num_steps=n, batch_size=2) for n in (2, 3)]
    likelihood = [
        call("log_likelihood", IMAGES, **of_three),
        call("log_likelihood", IMAGES, labels=[0, 1, 1], **of_three),
        call("log_likelihood", IMAGES, probe="gaussian", probes=2, **of_three),
    ]
    image = edited("img2img", IMAGES, num_steps=4)
    image += [call("img2img", IMAGES, strength=s, num_steps=4) for s in (0.3, 0.8)]
    paint = edited("inpaint", IMAGES, MASK, num_steps=2, resamplings=1)
    paint += [call("inpaint", IMAGES, ~MASK, num_steps=2, resamplings=2, jump_length=1)]
    return {
        "generate": generate + shown,
        "generate_batches": [batches(call("generate_batches", 3, num_steps=2))],
        "img2img": image,
        "inpaint": paint,
        "invert": invert,
        "interpolate": [
            call("interpolate", IMAGES[0], IMAGES[1], n, num_steps=2) for n in (2, 3)
        ],
        "log_likelihood": likelihood,
        "bits_per_dim": [
            call("bits_per_dim", IMAGES, levels=n, num_steps=2) for n in (2, 9)
        ],
    }


def vae():
    return kg.VAE(image_shape=(4, 4, 1), latent_dim=2, hidden_units=(4,), num_classes=2)


def vae_rows():
    codes, labels = DRAW.normal(size=(3, 2)).astype("float32"), [0, 1, 1]
    likelihood = functools.partial(call, "log_likelihood", UNIT, labels)

    def mixed(model):
        model.fit_prior(UNIT, labels, components=2)
        made = (
            model.generate(labels=labels),
            model.generate(labels=labels, prior="normal"),
        )
        model.prior = None
        return made

    return {
        "generate": [
            call("generate", labels=labels),
            call("generate", 3, seed=1),
            call("generate", labels=labels, temperature=0.5, batch_size=2),
            call("generate", labels=labels, sample=True),
            call("generate", 5),
        ],
        "generate_batches": [batches(call("generate_batches", 3, batch_size=2))],
        "encode": [
            lambda m: m.encode(UNIT, labels).mean,
            lambda m: m.encode(UNIT[:2], 1).log_variance,
            lambda m: m.encode(UNIT, labels, batch_size=2).mean,
        ],
        "decode": [call("decode", codes, labels), call("decode", codes[:1], 1)],
        "reconstruct": [call("reconstruct", UNIT, labels)],
        "interpolate": [
            call("interpolate", UNIT[0], UNIT[1], n=n, labels=1) for n in (2, 3)
        ],
        "traverse": [call("traverse", codes, 1, values=[0, 1], labels=1)],
        "log_likelihood": [
            likelihood(importance_samples=3),
            likelihood(importance_samples=5, chunk=2),
            likelihood(importance_samples=5, chunk=3, batch_size=2),
            likelihood(importance_samples=3, seed=1),
        ],
        "bits_per_dim": None,  # `log_likelihood`; refused of black and white
        "fit_prior": [mixed],
    }


def vqvae():
    model = kg.VQVAE(
        (4, 4, 1), "vector", 4, 3, filters=4, residual_filters=4, num_downsamples=1
    )
    model.prior = kg.PixelCNN(model.code_shape, 4, 2, filters=4, blocks=1)
    return model


def vqvae_rows():
    codes = DRAW.integers(0, 4, (3, 2, 2)).astype("int32")
    vectors = DRAW.normal(size=(3, 2, 2, 3)).astype("float32")

    def many(name, x):
        return [
            call(name, x),
            call(name, x[:1]),
            call(name, x, batch_size=2),
        ]

    return {
        "generate": [
            call("generate", labels=[0, 1, 1]),
            call("generate", 2, seed=3, temperature=0.3),
            call("generate", labels=[0, 1, 1], temperature=2.0, batch_size=2),
        ],
        "generate_batches": [batches(call("generate_batches", 3))],
        "encode": many("encode", IMAGES),
        "decode": many("decode", vectors),
        "reconstruct": many("reconstruct", IMAGES),
        "encode_indices": many("encode_indices", IMAGES),
        "decode_indices": many("decode_indices", codes),
        "fit_prior": None,  # `encode_indices` and the prior's `fit`
    }


def pixelcnn():
    return kg.PixelCNN((2, 2), 4, 2, filters=4, blocks=1)


def pixelcnn_rows():
    codes = DRAW.integers(0, 4, (3, 2, 2)).astype("int32")
    return {
        "generate": [
            call("generate", labels=[0, 1, 1]),
            call("generate", labels=[0, 1, 1], temperature=0.2),
            call("generate", 2, seed=1, temperature=5.0),
        ],
        "generate_batches": [batches(call("generate_batches", 3))],
        "log_probability": [
            call("log_probability", codes, [0, 1, 1]),
            call("log_probability", codes, [0, 1, 1], batch_size=2),
        ],
    }


def autoencoder_kl():
    return kg.AutoencoderKL(
        (8, 8, 1),
        block_channels=(4, 4),
        layers_per_block=1,
        groups=2,
        discriminator_layers=1,
        discriminator_filters=2,
    )


def autoencoder_kl_rows():
    images = DRAW.uniform(-1, 1, (3, 8, 8, 1)).astype("float32")

    def latents(model, n):
        return np.ones((n, *model.latent_shape), "float32")

    return {
        "generate": [call("generate", 3), call("generate", 3, batch_size=2)],
        "generate_batches": [batches(call("generate_batches", 2))],
        "encode": [
            lambda m: m.encode(images).mean,
            lambda m: m.encode(images[:1, :4], batch_size=1).mean,
        ],
        "decode": [lambda m, n=n: m.decode(latents(m, n)) for n in (1, 3)],
        "reconstruct": [call("reconstruct", images, batch_size=2)],
    }


def gan_rows(labels):
    given = {"labels": [0, 1, 1]} if labels else {"n": 3}
    return {
        "generate": [
            call("generate", **given),
            call("generate", **given, batch_size=2, seed=1),
            call("generate", 5),
            call("generate", 6),
            call("generate", 7),
        ],
        "generate_batches": [batches(call("generate_batches", 3))],
    }


def cnn():
    return kg.CNN((4, 4, 1), 3, filters=(4,), hidden_units=(4,))


def dream():
    first = kg.layers.Conv2D(
        3,
        3,
        padding="same",
        activation="tanh",
        kernel_initializer=keras.initializers.RandomNormal(seed=0),
        name="first",
    )
    network = keras.Sequential([keras.Input((None, None, 1)), first])
    return kg.DeepDream(network, {"first": 1.0}, octaves=1, steps=2, jitter=1)


def dream_rows():
    small, large = DRAW.uniform(-0.5, 0.5, (2, 12, 12, 1)).astype("float32"), NOISE
    large = np.clip(np.pad(small, ((0, 0), (0, 4), (0, 0), (0, 0))), -1, 1)
    plain = call("dream", small, verbose=0)
    return {
        "dream": [
            plain,
            call("dream", small[0], step_size=0.1, verbose=0),
            call("dream", large, steps=3, seed=2, verbose=0),
            changed(plain, smoothing=2.0),
            changed(plain, normalize=False),
            changed(plain, total_variation=0.5),
            changed(plain, climber="adam"),
        ],
        "generate": [call("generate", 2, size=(12, 12))],
        "generate_batches": None,  # of models that draw
        "measure": [call("measure", small), call("measure", large[0])],
        "zoom": [call("zoom", small[0], 2, verbose=0)],
        "climb": None,  # of `dream`
    }


SIZES = {
    "num_layers": 1,
    "hidden_dim": 8,
    "num_heads": 2,
    "vocabulary_size": 12,
    "max_sequence_length": 8,
}


def gpt():
    return kg.GPT(**SIZES)


def gpt_rows():
    write = functools.partial(call, "generate", [[5, 6], [7]], 3)
    return {
        "generate": [
            write(),
            write(top_k=3),
            write(temperature=0.0),
            write(num_beams=2),
            call("generate", [[5, 6, 7]], 2),
            lambda m: list(m.generate([5, 6], 3, stream=True)),
            changed(write(), eos_token_id=7),
        ],
        "score": [call("score", [[5, 6, 7], [8, 9]]), call("score", [[5, 6]])],
        "embed": [call("embed", [[5, 6, 7], [8, 9]]), call("embed", [[5, 6]])],
    }


def bert():
    return kg.BERT(**SIZES, mask_token_id=3, num_classes=2)


def bert_rows():
    texts = np.array([[5, 6, 7], [8, 9, 4]])
    return {
        "embed": [call("embed", texts), call("embed", texts, normalize=False)],
        "classify": [call("classify", texts), call("classify", texts, batch_size=1)],
    }


def vit():
    return kg.ViT(
        (4, 4, 1), patch_size=2, num_layers=1, hidden_dim=8, num_heads=2, num_classes=3
    )


def vit_rows():
    return {
        name: [call(name, IMAGES), call(name, IMAGES, batch_size=2)]
        for name in ("embed", "classify", "attention_maps")
    } | {"paint": None}  # of a masked autoencoder


def clip():
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "projection_dim": 4}
    return kg.CLIP(
        kg.clip.ImageTower((4, 4, 1), 2, **sizes),
        kg.clip.TextTower(9, 3, **sizes, eos_token_id=1),
        4,
    )


def clip_rows():
    texts = np.array([[5, 6, 1], [8, 1, 2]])
    scaled = {"mean": (0.4,), "std": (0.3,)}
    return {
        "encode_image": [
            call("encode_image", IMAGES),
            call("encode_image", IMAGES[:2], batch_size=1),
            changed(call("encode_image", IMAGES), **scaled),
            changed(call("encode_image", IMAGES), image_tower__pooling="token"),
        ],
        "encode_text": [
            call("encode_text", texts),
            call("encode_text", texts[:, :2] * 0 + [5, 1]),
            changed(call("encode_text", texts), text_tower__pooling="last"),
        ],
        "similarity": [
            call("similarity", IMAGES, texts),
            call("similarity", IMAGES[:1], texts, batch_size=1),
        ],
        "rank": [
            lambda m: [x[::2] for row in m.rank(IMAGES, texts) for x in row],
            lambda m: m.rank(IMAGES[:2], texts[:1], k=1, batch_size=1)[1][0][::2],
        ],
    }


def translator():
    sizes = {**SIZES, "intermediate_dim": 8}
    return kg.Translator(
        **sizes, decoder_start_token_id=0, eos_token_id=1, pad_token_id=2
    )


def translator_rows():
    texts = np.array([[5, 6, 1], [8, 1, 2]])
    return {
        "generate": None,  # `translate`
        "translate": [
            call("translate", texts, num_beams=1, max_length=4),
            call("translate", texts, num_beams=2, max_length=4),
            call("translate", texts, 2, 0.5, max_length=3, batch_size=1),
        ],
        "score": [call("score", texts, texts), call("score", texts[:1], texts[:1])],
        "attention_maps": [call("attention_maps", texts, texts)],
    }


MODELS = {
    "AutoencoderKL": (autoencoder_kl, autoencoder_kl_rows),
    "BERT": (bert, bert_rows),
    "CGAN": (
        lambda: kg.CGAN((8, 8, 1), 2, 2, base_filters=2),
        lambda: gan_rows(True),
    ),
    "CLIP": (clip, clip_rows),
    "CNN": (cnn, lambda: {"generate": None, "generate_batches": None}),
    "DCGAN": (
        lambda: kg.DCGAN((8, 8, 1), 2, base_filters=2),
        lambda: gan_rows(False),
    ),
    "DDPM": (ddpm, ddpm_rows),
    "DeepDream": (dream, dream_rows),
    "GPT": (gpt, gpt_rows),
    "PixelCNN": (pixelcnn, pixelcnn_rows),
    "Translator": (translator, translator_rows),
    "VAE": (vae, vae_rows),
    "VQVAE": (vqvae, vqvae_rows),
    "ViT": (vit, vit_rows),
}


# What is found by reading the code


def public_models():
    return {
        name: item
        for name, item in vars(kg).items()
        if isinstance(item, type)
        and issubclass(item, CompiledFunctions)
        and item not in (kg.Model, kg.GenerativeModel)
    }


def names_in(code):
    inner = [names_in(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)


def compiles(cls, fn, seen):
    """Whether a function of a class, or what it calls, compiles."""
    fn = inspect.unwrap(fn)
    if not isinstance(fn, types.FunctionType) or fn in seen:
        return False
    seen.add(fn)
    names = names_in(fn.__code__)
    if names & ROOTS:
        return True
    called = [vars(base)[n] for base in cls.__mro__ for n in names if n in vars(base)]
    called += functions_of(fn, names)
    return any(compiles(cls, one, seen) for one in called if of_package(one))


def functions_of(fn, names):
    """The functions of these names in its module and in those of its family."""
    around, family = fn.__globals__, fn.__module__.rpartition(".")[0]
    named = [around[name] for name in names if name in around]
    for module in [x for x in named if isinstance(x, types.ModuleType)]:
        named += [getattr(module, name) for name in names if hasattr(module, name)]
    own = [x for x in named if isinstance(x, types.FunctionType)]
    return [x for x in own if x.__module__.rpartition(".")[0] == family]


def of_package(fn):
    return getattr(fn, "__module__", "").startswith("keras_genai")


def found(cls):
    return {
        name
        for name in dir(cls)
        if name[0] != "_"
        and name not in ROOTS | INSIDE
        and of_package(inspect.getattr_static(cls, name))
        and compiles(cls, inspect.getattr_static(cls, name), set())
    }


@pytest.mark.skipif(BACKEND != "torch", reason="It reads code: once will do.")
def test_every_method_that_compiles_has_rows():
    models = public_models()
    del models["LatentDiffusion"]  # in tests/text_to_image/test_latent_diffusion.py
    assert set(MODELS) == set(models)
    for name, cls in models.items():
        rows = MODELS[name][1]()
        assert set(rows) == found(cls) | (set(rows) & {"generate"}), name


# What is kept is Python's: where compiling takes long, a few show that the backend
# keeps to it.
RUN = sorted(MODELS)
if BACKEND != "torch" and not THOROUGH:
    few = {"DCGAN", "GPT", "VAE"}
    RUN = sorted(few if BACKEND == "tensorflow" else set(MODELS) - few)


@pytest.mark.parametrize("name", RUN)
def test_the_second_call(name, monkeypatch, capsys):
    if BACKEND == "torch":  # recorded at once, so that recordings are run, too
        from keras_genai.backend.torch.recorder import steps as _torch_steps

        monkeypatch.setattr(_torch_steps, "WARM", 0)
    make, rows = MODELS[name]
    calls = [made for group in rows().values() if group for made in brief(group)]
    monkeypatch.setattr(programs, "EXACT", 1)
    model, fresh = trained(make()), trained(make())
    right = []
    for made in calls:
        fresh.forget_compiled()
        right.append(made(fresh))
    for number in [*range(len(calls)), *range(len(calls) - 1, -1, -1)]:
        assert_same(calls[number](model), right[number], f"{name}, call {number}")
    assert len(model.programs) <= programs.KEPT


def brief(group):
    """All calls where none is compiled; else the first two and the last.

    The names of what is kept are Python's, so that PyTorch judges them for all.
    """
    if BACKEND == "torch" or THOROUGH:
        return group
    return [*group[:2], *group[2:][-1:]]


def assert_same(made, right, what):
    made, right = keras.tree.flatten(made), keras.tree.flatten(right)
    assert len(made) == len(right), what
    for one, other in zip(made, right, strict=True):
        if isinstance(one, str):
            assert one == other, what
        else:
            np.testing.assert_allclose(
                np.asarray(one), np.asarray(other), rtol=1e-6, atol=1e-6, err_msg=what
            )
