"""The benchmark's parts that run no framework: ratios, FLOPs, the table."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_genai import gans

pytestmark = pytest.mark.once

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def _benchmark():
    sys.path.insert(0, str(TOOLS))
    try:
        path = TOOLS / "benchmark.py"
        spec = importlib.util.spec_from_file_location("keras_genai_benchmark", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


benchmark = _benchmark()
engine = benchmark.load("engine")
CPU = {"device": "cpu", "compile_seconds": 2.0, "flops": {"step": 1e9}}


def compare(row, seconds, facts=None):
    names = {name for name, _ in seconds}
    facts = facts or dict.fromkeys(names, CPU)
    return benchmark.compare(row, seconds, dict.fromkeys(seconds, 3e8), facts)


def test_the_ratio_is_taken_within_each_round():
    # The machine was four times slower in the last round, for both.
    seconds = {("a", "step"): [1.1, 1.2, 4.4], ("b", "step"): [1.0, 1.0, 4.0]}
    result = compare(benchmark.Row("a / b", "step", "a", "b", 1.05), seconds)
    assert result.ratio == pytest.approx(1.1)
    assert result.missed
    assert result.memory == 1.0
    assert result.quartiles == pytest.approx((1.1, 1.15))


def test_the_fastest_of_several_counts():
    seconds = {("a", "step"): [3.0], ("b", "step"): [1.0], ("peer", "step"): [2.0]}
    row = benchmark.Row("fastest", "step", ("a", "b", "absent"), "peer", 1.0)
    result = compare(row, seconds)
    assert (result.winner, result.ratio, result.missed) == ("b", 0.5, False)


def test_no_row_across_devices_or_without_its_reference():
    row = benchmark.Row("a / b", "step", "a", "b")
    assert compare(row, {("a", "step"): [1.0]}) is None
    seconds = {("a", "step"): [1.0], ("b", "step"): [1.0]}
    facts = {"a": CPU, "b": {**CPU, "device": "H200"}}
    assert compare(row, seconds, facts) is None


def test_the_share_of_the_matrix_rate():
    seconds = {("a", "step"): [0.5], ("b", "step"): [1.0]}
    facts = {"a": CPU, "b": {**CPU, "matrix_rate": 4e9}}
    result = compare(benchmark.Row("a / b", "step", "a", "b"), seconds, facts)
    assert result.share == pytest.approx(0.5)


def test_the_table_and_the_misses():
    seconds = {("a", "step"): [2.0], ("b", "step"): [1.0]}
    results = [
        compare(benchmark.Row("a / b", "step", "a", "b", 1.05), seconds),
        compare(benchmark.Row("b / a", "step", "b", "a", 1.05), seconds),
    ]
    lines = benchmark.table(results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "2.00 (2.00-2.00) **missed**" in lines[2]
    assert "missed" not in lines[3]
    text = benchmark.misses(results, {"a / b": "the reason"}.get)
    assert "| a / b | 2.00 | 1.05 | the reason |" in text
    assert "No row" in benchmark.misses(results[1:], lambda label: None)


def test_a_section_is_replaced_and_the_others_stay():
    page = benchmark.put("", "a on cpu", benchmark.section("a on cpu", "A", "x", ["1"]))
    page = benchmark.put(page, "b on cpu", benchmark.section("b on cpu", "B", "y", []))
    page = benchmark.put(page, "a on cpu", benchmark.section("a on cpu", "A", "z", []))
    assert page.startswith("# Benchmarks")
    assert page.count("## A") == page.count("## B") == 1
    assert "z" in page and "x" not in page.split("## A")[1].split("<!--")[0]


def test_a_worker_over_pipes():
    script = (
        "import sys, json\n"
        "print(json.dumps({'tasks': ['step']}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    n = json.loads(line)['steps']\n"
        "    print(json.dumps({'seconds': n, 'peak': 1}), flush=True)\n"
    )
    worker = benchmark.Worker([sys.executable, "-c", script], None)
    try:
        seconds, peaks = benchmark.measure({"w": worker}, {"step": 3}, 5)
    finally:
        worker.close()
    assert seconds == {("w", "step"): [5, 5, 5]}
    assert peaks == {("w", "step"): 1}
    assert worker.process.returncode == 0


def test_a_worker_that_dies_is_named():
    with pytest.raises(SystemExit, match="status 3"):
        benchmark.Worker([sys.executable, "-c", "raise SystemExit(3)"], None)


@pytest.mark.parametrize(
    "name", ["autoencoder", "diffusion", "dream", "engine", "transformer", "vae"]
)
def test_every_row_has_its_contenders(name):
    comparison = benchmark.load(name)
    backends = ["tensorflow", "jax", "torch"]
    names = set(comparison.contenders(backends))
    for gpu in (False, True):
        for row in comparison.rows(backends, gpu):
            row = benchmark.Row(**row)
            over = row.over if isinstance(row.over, tuple) else (row.over,)
            assert {*over, row.under} <= names
    json.dumps(comparison.contenders(backends))


@pytest.mark.parametrize("case", sorted(engine.CASES))
def test_the_multiplications_are_those_of_the_networks(case):
    shape = engine.CASES[case]["image_shape"]
    latent, base = 8, 4
    counted = engine.layers(shape, latent, base)
    networks = (
        gans.dcgan_generator(shape, latent, base),
        gans.dcgan_discriminator(shape, base),
    )
    for network, numbers in zip(networks, counted, strict=True):
        expected = []
        for layer in network.layers:
            if not hasattr(layer, "kernel"):
                continue
            pixels = layer.output if "down" in layer.name else layer.input
            area = 1
            for side in pixels.shape[1:-1]:
                area *= side
            size = 1
            for side in layer.kernel.shape:
                size *= side
            expected.append(area * size)
        assert numbers == expected


def test_bad_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["engine", "--steps", "0"])
    assert "--steps must be at least 1; got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="there are: .*engine"):
        benchmark.load("nothing")


def test_the_launcher_needs_the_standard_library_alone():
    script = (
        f"import sys; sys.path.insert(0, {str(TOOLS)!r})\n"
        "import benchmark\n"
        "benchmark.load('engine').contenders(['jax'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_both_sides_compute_the_same_metrics(monkeypatch):
    metrics = benchmark.load("metrics")
    monkeypatch.setattr(metrics, "SUBSETS", 3)
    tasks = ("fid", "kid", "precision", "density")
    case = {"samples": 1200, "features": 8, "tasks": tasks}
    own, reference = (
        metrics.build(name, case) for name in (metrics.OWN, metrics.REFERENCE)
    )
    for task in tasks:
        ours = getattr(own, task)().values()
        theirs = getattr(reference, task)()
        theirs = theirs if isinstance(theirs, tuple) else (theirs,)
        assert list(ours) == pytest.approx(list(theirs), rel=1e-6), task
