"""The noise: published bits, equal on every backend, and of the right distribution.

A process runs one backend, so equality across backends is that of each with the
digests and values committed here.
"""

import hashlib
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_genai.backend import random, replicas, threefry

BACKEND = keras.backend.backend()
KEY = random.key(1234, "golden", 5)


def host(x):
    return ops.convert_to_numpy(x)


def tensor(x):
    return ops.convert_to_tensor(x, dtype="int32")


def tensor_key(key):
    return tensor(key[0]), tensor(key[1])


def digest(x):
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]


def compiled(function):
    """The function as the backend compiles it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


# The bits

KNOWN = [  # Random123's kat_vectors: key, counter, output
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    (
        (0x13198A2E, 0x03707344),
        (0x243F6A88, 0x85A308D3),
        (0xC4923A9C, 0x483DF7A0),
    ),
]


@pytest.mark.parametrize("key, counter, output", KNOWN)
@pytest.mark.parametrize("kind", ["int", "numpy", "tensor", "tensor key"])
def test_known_answers(key, counter, output, kind):
    key = [threefry.signed(word) for word in key]
    counter = [threefry.signed(word) for word in counter]
    if kind == "numpy":
        counter = [np.array([word], "int32") for word in counter]
    elif kind != "int":
        counter = [tensor([word]) for word in counter]
        key = tensor_key(key) if kind == "tensor key" else key
    words = threefry.threefry2x32(key, counter)
    words = words if kind == "int" else [int(host(word)[0]) for word in words]
    assert tuple(word & 0xFFFFFFFF for word in words) == output


@pytest.mark.skipif(BACKEND != "torch", reason="the kernel is PyTorch's")
@pytest.mark.parametrize("scalar", [int, tensor])
def test_the_torch_kernel_is_the_same_function(scalar):
    from keras_genai.backend.torch import threefry as _torch_threefry

    first, second = tensor(np.arange(-3, 4)[:, None]), tensor(np.arange(5)[None])
    words = _torch_threefry.threefry2x32(map(scalar, KEY), (first, second))
    expected = threefry.threefry2x32(KEY, (first.numpy(), second.numpy()))
    assert np.array_equal(words, expected)
    assert np.array_equal(first[:, 0], np.arange(-3, 4))
    assert _torch_threefry.concrete_int(tensor(7)) == 7
    assert _torch_threefry.concrete_int(tensor(7).to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    "name, draw, expected",
    [
        ("bits", lambda k: random.bits(k, (7, 5, 3)), "857d242d811ad79e"),
        ("one", lambda k: random.bits(k, ()), "95e0c4bf93eaeb51"),
        ("uniform", lambda k: random.uniform(k, (7, 5, 3)), "0f93cfe9036ada01"),
        ("large", lambda k: random.bits(k, (300, 301)), "302232d181702c03"),
        ("randint", lambda k: random.randint(k, (999,), -7, 10**6), "2d507db27f746aea"),
        ("bernoulli", lambda k: random.bernoulli(k, (99, 9), 0.3), "622bda73e1ec517a"),
        ("permutation", lambda k: random.permutation(k, 1001), "dddfb8700962b590"),
    ],
)
def test_equal_to_the_bit_on_every_backend(name, draw, expected):
    assert digest(host(draw(KEY))) == expected
    run = compiled(lambda step: draw(random.key(1234, "golden", step)))
    assert digest(host(run(tensor(5)))) == expected


VALUES = {
    "normal": [[1.2200058, -0.8791287, 1.1416227], [-0.0295728, 0.3246210, 0.2448638]],
    "truncated_normal": [
        [0.8710541, -0.2400566, 1.0061066],
        [-0.1241099, 0.6821442, -0.4966614],
    ],
    "gumbel": [[0.9420507, -0.8367360, 0.8097371], [-1.0857034, 1.1804222, -0.4778843]],
    "uniform": [
        [-0.4173889, 4.2049713, -0.1267223],
        [4.5860791, -0.8843279, 3.4051452],
    ],
}


@pytest.mark.parametrize("name", ["normal", "truncated_normal", "gumbel", "uniform"])
def test_committed_values(name):
    arguments = (-3.0, 5.0) if name == "uniform" else ()
    values = host(getattr(random, name)(KEY, (2, 3), *arguments))
    np.testing.assert_allclose(values, VALUES[name], rtol=0, atol=1e-6)
    run = compiled(lambda x: getattr(random, name)(tuple(x), (2, 3), *arguments))
    np.testing.assert_allclose(host(run(tensor_key(KEY))), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["bits", "uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize("shape", [(), (5,), (64, 3), (0, 3), (2, 0), (300, 301)])
def test_host_and_tensors_agree(name, shape):
    draw = getattr(random, name)
    on_host, on_device = draw(KEY, shape, host=True), host(draw(KEY, shape))
    assert isinstance(on_host, np.ndarray) and on_host.shape == shape
    assert on_host.dtype == on_device.dtype == ("int32" if name == "bits" else "f4")
    if name in ("bits", "uniform"):
        assert np.array_equal(on_host, on_device)
    np.testing.assert_allclose(on_host, on_device, rtol=0, atol=2e-6)


def test_keys():
    assert random.key(3, "a", 2) == random.key(np.int64(3), "a", np.int32(2))
    traced = random.key(tensor(3), "a", keras.Variable(2, dtype="int32", trainable=0))
    assert tuple(int(host(word)) for word in map(ops.convert_to_tensor, traced)) == (
        random.key(3, "a", 2)
    )
    words = (0, 3, 2**32, 2**63 - 1)
    keys = {random.key(s, n, i) for s in words for n in ("", "a") for i in (0, 1, -1)}
    assert len(keys) == 24


# The numbering


DRAWS = {
    "bits": random.bits,
    "uniform": random.uniform,
    "normal": random.normal,
    "truncated_normal": random.truncated_normal,
    "randint": lambda *a, **k: random.randint(*a, -5, 70_000, **k),
    "bernoulli": random.bernoulli,
    "gumbel": random.gumbel,
}


def test_subkeys():
    """Integers and tensors agree; other keys, names and steps give other noise."""
    base = random.key(7, "a")
    wanted = random.subkey(base, "b", 3)
    words = [ops.convert_to_tensor(np.array(w, "int32")) for w in base]
    step = ops.convert_to_tensor(np.array(3, "int32"))
    for got in (random.subkey(words, "b", step), random.subkey(base, "b", step)):
        assert tuple(int(ops.convert_to_numpy(w)) for w in got) == wanted
    others = [
        random.subkey(base, "b", 4),
        random.subkey(base, "c", 3),
        random.subkey(random.key(8, "a"), "b", 3),
        base,
    ]
    assert wanted not in others and len(set(others)) == 4


@pytest.mark.parametrize("tail", [(), (3, 1)])
def test_a_draw_begins_with_the_shorter_draw(tail):
    def draws(samples, offset):
        draw = {
            name: f(KEY, (samples, *tail), offset=offset) for name, f in DRAWS.items()
        }
        return draw | {
            "classes": random.categorical(KEY, ops.zeros((samples, 7)), offset)
        }

    whole = compiled(lambda offset: draws(16, offset))(tensor(0))
    first = compiled(lambda: draws(8, 0))()
    second = compiled(lambda offset: draws(8, offset))(tensor(8))
    for name, x in whole.items():
        assert tuple(x.shape) == ((16,) if name == "classes" else (16, *tail))
        both = np.concatenate([host(first[name]), host(second[name])])
        np.testing.assert_allclose(both, host(x), rtol=0, atol=1e-6, err_msg=name)


def test_a_draw_in_parts_is_the_whole_draw():
    """Elements of a sample by `skip`, also as a tensor, and on the host."""
    whole = host(random.normal(KEY, (5, 14), offset=3))
    draw = compiled(lambda skip: random.normal(KEY, (5, 4), offset=3, skip=skip))
    for start in (0, 4, 10):
        for part in (
            host(random.normal(KEY, (5, 4), offset=3, skip=start)),
            random.normal(KEY, (5, 4), offset=3, skip=start, host=True),
            host(draw(tensor(start))),
        ):
            np.testing.assert_allclose(part, whole[:, start : start + 4], atol=1e-6)


def test_one_sample_and_wrapping_numbers():
    assert host(random.normal(KEY, (), offset=4)) == host(random.normal(KEY, (5,)))[4]
    wrapped = random.bits(KEY, (2, 3), offset=2**31 - 1)
    assert np.array_equal(
        host(wrapped)[1:], host(random.bits(KEY, (1, 3), offset=-(2**31)))
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="dynamic shapes are TensorFlow's")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_dimensions(jit_compile):
    import tensorflow as tf

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 3]), tf.TensorSpec([], "int32")],
        jit_compile=jit_compile,
    )
    def run(x, step):
        key = random.key(0, "z", step)
        logits = tf.zeros((tf.shape(x)[0], 4))
        keep = random.bernoulli(key, ops.shape(x), 0.5)
        return random.normal(key, ops.shape(x)), keep, random.categorical(key, logits)

    key = random.key(0, "z", 9)
    for batch in (2, 5):
        z, keep, classes = run(tf.zeros((batch, 3, 3)), tf.constant(9))
        expected = host(random.normal(key, (batch, 3, 3)))
        np.testing.assert_allclose(z, expected, rtol=0, atol=1e-6)
        assert np.array_equal(keep, random.bernoulli(key, (batch, 3, 3), 0.5))
        assert np.array_equal(classes, random.categorical(key, np.zeros((batch, 4))))


# The distributions


@pytest.mark.parametrize(
    "name, distribution",
    [
        ("uniform", stats.uniform()),
        ("normal", stats.norm()),
        ("truncated_normal", stats.truncnorm(-2, 2)),
        ("gumbel", stats.gumbel_r()),
    ],
)
@pytest.mark.parametrize("shape", [(100_000,), (100, 1000)])
def test_distribution(name, distribution, shape):
    draw = getattr(random, name)
    run = compiled(lambda step: draw(random.key(1, "ks", step), shape))
    x = host(run(tensor(0))).ravel()
    assert stats.kstest(x, distribution.cdf).pvalue > 1e-3
    x = x.astype("float64")
    for order in (1, 2, 3, 4):
        spread = math.sqrt(distribution.moment(2 * order) / x.size)
        assert abs(np.mean(x**order) - distribution.moment(order)) < 4 * spread


def test_normal_tails():
    draw = compiled(lambda s: random.normal(random.key(0, "tails", s), (2000, 2000)))
    z = np.abs(host(draw(tensor(0))))
    for bound in (3.0, 4.0, 4.5):
        expected = z.size * 2 * stats.norm.sf(bound)
        assert abs(np.sum(z > bound) - expected) < 4 * math.sqrt(expected)
    assert 5.0 < z.max() < 6.8


def test_location_scale_and_dtype():
    z = host(random.normal(KEY, (64, 3)))
    moved = host(random.normal(KEY, (64, 3), 2.0, ops.ones((3,), "float16") * 0.5))
    np.testing.assert_allclose(moved, 2.0 + 0.5 * z, atol=1e-6)
    assert keras.backend.standardize_dtype(
        random.normal(KEY, (2,), dtype="bfloat16").dtype
    ) == ("bfloat16")
    cut = host(random.truncated_normal(KEY, (10_000,), 1.0, 0.1))
    assert 0.8 <= cut.min() and cut.max() <= 1.2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("minval, maxval", [(0.0, 1.0), (-1.0, 1.0), (1000.0, 1001.0)])
@pytest.mark.parametrize("convert", [float, ops.convert_to_tensor])
def test_uniform_never_reaches_maxval(dtype, minval, maxval, convert):
    x = random.uniform(KEY, (50_000,), convert(minval), convert(maxval), dtype)
    x = host(ops.cast(x, "float32"))
    assert minval <= x.min() and x.max() < maxval


@pytest.mark.parametrize("span", [2, 3, 10, 1000])
def test_randint_is_uniform(span):
    x = host(random.randint(random.key(2), (100_000,), -1, span - 1))
    counts = np.bincount(x + 1, minlength=span)
    assert counts.size == span
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "minval, maxval",
    [(0, 1), (5, 12), (-7, 10**6), (-(2**31), 2**31), (0, 2**31), (-(2**31), 17)],
)
def test_randint_is_the_high_word_of_the_product(minval, maxval):
    x = random.bits(KEY, (1000,), host=True).view("uint32")
    expected = [minval + (int(word) * (maxval - minval) >> 32) for word in x]
    assert host(random.randint(KEY, (1000,), minval, maxval)).tolist() == expected
    if maxval < 2**31:
        bounds = tensor(minval), tensor(maxval)
        assert host(random.randint(KEY, (1000,), *bounds)).tolist() == expected


def test_bernoulli_and_categorical():
    p = np.array([0.0, 0.1, 0.5, 1.0], "float32")
    counts = host(random.bernoulli(random.key(3), (50_000, 4), p, "int32")).sum(0)
    assert counts[0] == 0 and counts[3] == 50_000
    for count, rate in zip(counts[1:3], p[1:3], strict=True):
        assert stats.binomtest(int(count), 50_000, float(rate)).pvalue > 1e-3
    p = np.array([0.5, 0.25, 0.0, 0.2, 0.05])
    with np.errstate(divide="ignore"):
        logits = np.broadcast_to(np.log(p), (50_000, 5)).astype("float32")
    counts = np.bincount(
        host(random.categorical(random.key(4), ops.convert_to_tensor(logits))),
        minlength=5,
    )
    assert counts[2] == 0
    kept = [0, 1, 3, 4]
    assert stats.chisquare(counts[kept], 50_000 * p[kept]).pvalue > 1e-3


def test_independence():
    """Other streams, steps, seeds, neighbours in samples and elements."""
    x = random.normal(random.key(0, "a", 0), (300, 301), host=True)
    others = {
        "stream": random.normal(random.key(0, "b", 0), x.shape, host=True),
        "step": random.normal(random.key(0, "a", 1), x.shape, host=True),
        "seed": random.normal(random.key(1, "a", 0), x.shape, host=True),
        "high": random.normal(random.key(2**32, "a", 0), x.shape, host=True),
        "sample": np.roll(x, 1, 0),
        "element": np.roll(x, 1, 1),
        "pair": np.roll(x, 2, 1),
    }
    for name, y in others.items():
        for f in (np.asarray, np.square, np.abs):
            r = np.corrcoef(f(x).ravel(), f(y).ravel())[0, 1]
            assert abs(r) < 4 / math.sqrt(x.size), (name, f, r)


@pytest.mark.parametrize("n", [0, 1, 10, 1000])
def test_permutation(n):
    order = random.permutation(KEY, n)
    assert isinstance(order, np.ndarray) and order.dtype == "int32"
    assert np.array_equal(np.sort(order), np.arange(n))
    run = compiled(lambda key: random.permutation(tuple(key), n))
    assert np.array_equal(host(run(tensor_key(KEY))), order)


def test_permutation_is_uniform():
    orders = [tuple(random.permutation(random.key(s), 4)) for s in range(2400)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert counts.size == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_equal_words_are_ordered_alike():
    x0, x1 = np.random.default_rng(0).integers(-2, 3, (2, 5000)).astype("int32")
    order = random._lexicographic_order(x0, x1)
    run = compiled(random._lexicographic_order)
    assert np.array_equal(host(run(tensor(x0), tensor(x1))), order)
    assert order.tolist() == sorted(range(5000), key=lambda i: (x0[i], x1[i], i))


# Errors


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "0", None, True, np.True_])
def test_bad_seeds(seed):
    for function in (random.key, random.check_seed, random.Noise):
        with pytest.raises(ValueError, match="seed must be an integer in"):
            function(seed)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: random.key(0, 3), "stream must be a string"),
        (lambda: random.uniform(KEY, (2,), 1.0, 1.0), "minval must be under maxval"),
        (lambda: random.randint(KEY, (2,), 3, 3), "minval must be under maxval"),
        (lambda: random.randint(KEY, (2,), 0, 2**31 + 1), "within int32"),
        (lambda: random.bernoulli(KEY, (2,), 1.5), "p must be a probability"),
        (lambda: random.permutation(KEY, -1), "n must be an integer"),
        (lambda: random.permutation(KEY, 2.0), "n must be an integer"),
        (lambda: random.normal(KEY, (None, 3)), "shape must hold numbers"),
        (lambda: random.normal(KEY, (2, -3)), "shape must hold numbers"),
        (lambda: random.normal(tensor_key(KEY), (2,), host=True), "Python integers"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The layer


@keras.saving.register_keras_serializable("tests")
class Noisy(keras.layers.Layer):
    """Adds noise, another at each call."""

    def __init__(self, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.noise = random.Noise(seed, name="noise")
        self.built = True

    def call(self, x):
        y = x + ops.cast(self.noise.normal("z", ops.shape(x)), x.dtype)
        self.noise.advance()
        return y


def test_noise_is_keyed_by_seed_stream_and_step(monkeypatch):
    noise = random.Noise(7)
    assert [v.path.split("/")[-1] for v in noise.non_trainable_variables] == ["step"]
    assert not noise.trainable_variables
    noise.advance()
    noise.advance(2)
    assert int(host(noise.step.value)) == 3
    key = random.key(7, "z", 3)
    logits = np.zeros((4, 3), "float32")
    calls = {
        "normal": ((4, 3),),
        "uniform": ((4, 3), -1.0),
        "truncated_normal": ((4, 3),),
        "randint": ((4, 3), 0, 9),
        "bernoulli": ((4, 3), 0.3),
        "gumbel": ((4, 3),),
        "categorical": (logits,),
    }

    def draw(step):
        with keras.StatelessScope([(noise.step, step)]):
            return {n: getattr(noise, n)("z", *calls[n], offset=2) for n in calls}

    monkeypatch.setattr(replicas, "offset", lambda: 3)
    drawn = compiled(draw)(tensor(3))
    for name, arguments in calls.items():
        expected = host(getattr(random, name)(key, *arguments, offset=5))
        np.testing.assert_allclose(host(drawn[name]), expected, rtol=0, atol=1e-6)


def test_noise_in_a_compiled_step():
    model = keras.Sequential([keras.Input((3,)), Noisy(seed=5)])
    x = np.zeros((4, 3), "float32")
    start = int(host(model.layers[0].noise.step.value))
    model.compile()
    for batch in (4, 4, 2):
        y = model.predict_on_batch(x[:batch])
        z = random.normal(random.key(5, "z", start), (batch, 3), host=True)
        np.testing.assert_allclose(y, z, atol=1e-6)
        start += 1
    if BACKEND == "jax":
        step = model.layers[0].noise.step
        y, state = model.stateless_call([], [v.value for v in model.variables], x)
        assert int(state[0]) == start + 1 and int(step.value) == start


def test_noise_saves_its_step(tmp_path):
    model = keras.Sequential([keras.Input((3,)), Noisy()])
    x = np.zeros((4, 3), "float32")
    model.layers[0].noise.advance(3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(host(loaded.layers[0].noise.step.value)) == int(
        host(model.layers[0].noise.step.value)
    )
    assert np.array_equal(loaded.predict_on_batch(x), model.predict_on_batch(x))


def test_noise_config_and_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        noise = random.Noise(7, name="n")
        z = noise.normal("z", (4, 3))
    finally:
        keras.config.set_dtype_policy(before)
    assert noise.compute_dtype == "float32"
    assert keras.backend.standardize_dtype(z.dtype) == "float32"
    clone = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(noise)
    )
    assert (clone.seed, clone.name, clone.compute_dtype) == (7, "n", "float32")
    assert np.array_equal(host(clone.normal("z", (4, 3))), host(z))


def test_many_words_are_those_of_each_place():
    """However a backend cuts the work: words of one place depend on it alone."""
    key = random.key(5, "many")
    many = host(random.uniform(key, (70_001,)))
    np.testing.assert_array_equal(many[:11], host(random.uniform(key, (11,))))
    ends = host(random.uniform(key, (70_001, 1)))[:, 0]
    np.testing.assert_array_equal(many, ends)
    assert len(np.unique(many)) > 69_000
    np.testing.assert_allclose(many.mean(), 0.5, atol=0.005)
