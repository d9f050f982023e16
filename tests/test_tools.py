"""The parts of the tools that need no environment: counting, stamps, folders."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.once

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def tool(name):
    """A tool as a module. They are no package, and `test` is a standard module too.

    Args:
        name: path below `tools`, without its ending.
    """
    path = TOOLS / f"{name}.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(
            f"keras_genai_tool_{path.stem}", path
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


environment = tool("_environment")
runner = tool("test")
quickstart = tool("quickstart")
make_fashion_mnist = tool("data/make_fashion_mnist")


# Counts -------------------------------------------------------------------------


def report(folder, cases):
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_counts_of_a_report(tmp_path):
    path = report(
        tmp_path,
        '<testcase classname="a" name="1"/>'
        '<testcase classname="a" name="2"><failure message="no"/></testcase>'
        '<testcase classname="a" name="3"><error message="no"/></testcase>'
        '<testcase classname="a" name="4"><skipped message="later"/></testcase>'
        '<testcase classname="b" name="1"/>'
        # Passed, and then its fixture failed to clean up.
        '<testcase classname="b" name="1"><error message="teardown"/></testcase>',
    )
    counts = runner.count_report(path, 1)
    assert counts == runner.Counts(passed=1, failed=3, skipped=1)


def test_the_line_of_counts_leaves_out_zero_skipped():
    assert str(runner.Counts(412, 0, 0)) == "412 passed, 0 failed"
    total = runner.Counts(400, 1, 0) + runner.Counts(12, 0, 3)
    assert str(total) == "412 passed, 1 failed, 3 skipped"


def test_a_crash_without_a_report_is_one_failure(tmp_path, capsys):
    assert runner.count_report(tmp_path / "none.xml", -11) == runner.Counts(failed=1)
    assert "without a report" in capsys.readouterr().out
    (tmp_path / "cut.xml").write_text("<testsuites><testsuite>")
    assert runner.count_report(tmp_path / "cut.xml", -9) == runner.Counts(failed=1)


@pytest.mark.parametrize("status, passed", [(-11, 1), (3, 1), (5, 0)])
def test_a_bad_end_after_passed_tests_is_a_failure(tmp_path, status, passed):
    cases = '<testcase classname="a" name="1"/>' * passed
    counts = runner.count_report(report(tmp_path, cases), status)
    assert counts == runner.Counts(passed=passed, failed=1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_sum_over_steps(jobs, capfd):
    steps = [
        runner.Step(
            f"step {status}",
            [sys.executable, "-c", f"print('hello'); raise SystemExit({status})"],
            runner.count_status,
            {},
        )
        for status in (0, 1, 0)
    ]
    counts = [runner.tell(step, ended) for step, ended in runner.run(steps, jobs)]
    assert sum(counts, runner.Counts()) == runner.Counts(passed=2, failed=1)
    out = capfd.readouterr().out
    assert out.count("hello") == 3
    assert out.index("=== step 0") < out.index("=== step 1")


def test_a_profile_finds_where_the_time_went(tmp_path):
    profile = runner.profile
    case = '<testcase classname="{}" name="{}"><properties><property '
    case += 'name="process_seconds" value="{}"/></properties></testcase>'
    # A module that is skipped whole stands there without a class.
    skipped = report(tmp_path, '<testcase classname="" name="tests.dream.test_x"/>')
    assert profile.of_report(skipped, "jax", total=1.0)[0].file == ""
    path = report(
        tmp_path,
        case.format("tests.gans.test_cgan", "test_a[1]", 200)
        + case.format("tests.gans.test_cgan.TestB", "test_a[2]", 90)
        + case.format("tests.training.test_data", "test_c", 5000),
    )
    spent = profile.of_report(path, "jax", total=5291.0)
    spent.append(profile.Spent("no tests", "01_dcgan.py", "01_dcgan.py", 9.0))
    assert [(each.file, each.check, each.seconds) for each in spent[:2]] == [
        ("gans/test_cgan.py", "test_a", 200.0),
        ("gans/test_cgan.py", "test_a", 90.0),
    ]
    assert spent[3].seconds == 1.0
    assert profile.over_the_limit(spent) == []
    spent.append(profile.Spent("torch", "gans/test_gan.py", "test_d", 2.0))
    (complaint,) = profile.over_the_limit(spent)
    assert complaint.startswith("gans costs 301 process-seconds")
    assert "Process-seconds: 5302" in profile.tables(spent)


def test_each_family_of_the_profile_has_tests_and_each_tutorial_a_family():
    profile, root = runner.profile, environment.ROOT
    files = [
        path.relative_to(root / "tests").as_posix()
        for path in (root / "tests").rglob("test_*.py")
    ]
    tutorials = [path.name for path in (root / "tutorials").glob("[0-9]*.py")]
    assert set(map(profile.family_of, files)) == {*profile.FAMILIES, "shared"}
    assert "shared" not in map(profile.family_of, tutorials)


def test_the_process_seconds_of_a_step_are_those_of_its_children_too():
    burn = "sum(i * i for i in range(3 * 10**6))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{burn}'])"
    step = runner.Step("burn", [sys.executable, "-c", code], runner.count_status, {})
    assert runner.run_step(step, show_at_once=False).process_seconds > 0.1


def test_arguments_that_are_not_the_tools_go_to_pytest():
    options, rest = runner.parse(["--backend", "jax", "-k", "cgan", "tests/gans", "-x"])
    assert options.backend == "jax"
    assert options.jobs == min(2, os.cpu_count())
    assert rest == ["-k", "cgan", "tests/gans", "-x"]
    step = runner.pytest_step(Path("python"), "jax", "pytest", rest, Path("a"), options)
    assert step.command[-4:] == rest
    assert "tests" not in step.command
    assert step.variables["KERAS_BACKEND"] == "jax"


def test_pytests_cache_is_on_only_where_it_is_asked_for():
    options, _ = runner.parse([])
    for arguments, off in (([], True), (["--lf"], False)):
        step = runner.pytest_step(
            Path("a"), "jax", "pytest", arguments, Path("."), options
        )
        assert ("no:cacheprovider" in step.command) == off


def test_the_parts_are_all_tests_and_each_has_a_report():
    given = ["tests/gans", "-x"]
    assert runner.parts(given) == [("pytest", given)]
    quick = ["-m", "not processes and not slow"]
    assert runner.parts(given, quick=True) == [("pytest", [*quick, *given])]
    (_, processes), *chosen = runner.parts([])
    assert processes == ["tests", "-m", "processes"]
    assert {tuple(arguments[-2:]) for _, arguments in chosen} == {
        ("-m", "not processes")
    }
    quickly = runner.parts([], quick=True)
    (everything, *ignored), *large = [arguments[:-2] for _, arguments in chosen]
    assert [a for _, a in quickly] == [[*a[:-2], *quick] for _, a in chosen]
    assert everything == "tests"
    folders = [path for paths in large for path in paths]
    assert [f"--ignore={path}" for path in folders] == ignored
    assert all((environment.ROOT / path).is_dir() for path in folders)
    options, _ = runner.parse(["--thorough"])
    steps = [
        runner.pytest_step(Path("python"), "jax", what, arguments, Path("a"), options)
        for what, arguments in runner.parts([])
    ]
    reports = {part for step in steps for part in step.command if "--junitxml" in part}
    assert len(reports) == len(steps)
    assert all(step.variables["KG_THOROUGH"] == "1" for step in steps)


# Environments -------------------------------------------------------------------


def test_the_stamp_changes_with_the_requirements():
    first = environment.requirement_hash(["keras==3.15.1", "numpy"])
    assert first == environment.requirement_hash(["keras==3.15.1", "numpy"])
    assert first != environment.requirement_hash(["keras==3.15.2", "numpy"])
    assert first != environment.requirement_hash(["keras==3.15.1"])


def test_the_stamp_is_read_back_and_a_broken_one_is_empty(tmp_path):
    assert environment.read_stamp(tmp_path) == {}
    environment.write_stamp(tmp_path, {"keras": "abc"})
    assert environment.read_stamp(tmp_path) == {"keras": "abc"}
    for broken in ("", '{"keras": ', "[1]"):
        (tmp_path / environment.STAMP).write_text(broken)
        assert environment.read_stamp(tmp_path) == {}


def fake_package(packages, name, version, whole=True):
    info = packages / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("")
    if whole:
        (info / "RECORD").write_text("")


def test_a_half_installed_package_is_not_there(tmp_path):
    fake_package(tmp_path, "tensorflow_cpu", "2.21.0")
    fake_package(tmp_path, "keras", "3.15.1", whole=False)
    (tmp_path / "~umpy").mkdir()
    assert environment.installed(tmp_path) == {"tensorflow-cpu": "2.21.0"}
    environment.remove_half_installed(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [
        "tensorflow_cpu-2.21.0.dist-info"
    ]


def test_requirements_against_what_is_installed():
    packages = {"torch": "2.13.0+cpu", "pytest-timeout": "2.4.0", "keras": "3.15.0"}
    assert environment.is_satisfied("torch==2.13.0", packages)
    assert environment.is_satisfied("pytest_timeout", packages)
    assert not environment.is_satisfied("keras==3.15.1", packages)
    assert not environment.is_satisfied("numpy", packages)


def test_a_finished_environment_misses_nothing_and_a_changed_one_does(tmp_path):
    wanted = {"keras": ("keras==3.15.1", "numpy")}
    assert environment._missing(tmp_path, wanted) == ["keras", "package"]
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    if os.name == "nt":
        packages = tmp_path / "Lib" / "site-packages"
    for name, version in (("keras", "3.15.1"), ("numpy", "2.4.6")):
        fake_package(packages, name, version)
    fake_package(packages, "keras_genai", "0.1.0.dev0")
    editable = ("--no-deps", "--editable", str(environment.ROOT))
    stamp = {
        "keras": environment.requirement_hash(wanted["keras"]),
        "package": environment.requirement_hash(editable),
    }
    environment.write_stamp(tmp_path, stamp)
    assert environment._missing(tmp_path, wanted) == []
    # A stamp that says more than what is there is not believed.
    (packages / "numpy-2.4.6.dist-info" / "RECORD").unlink()
    assert environment._missing(tmp_path, wanted) == ["keras"]
    environment.write_stamp(tmp_path, {**stamp, "package": "of another clone"})
    assert environment._missing(tmp_path, wanted) == ["keras", "package"]


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit, match="not a virtual environment"):
        environment._make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "line, shown",
    [
        ("Collecting keras==3.15.1\n", "collecting keras==3.15.1"),
        ("Collecting rich (from keras==3.15.1)\n", "collecting rich"),
        (
            "  Downloading keras-3.15.1-py3-none-any.whl (1.4 MB)\n",
            "downloading keras-3.15.1-py3-none-any.whl (1.4 MB)",
        ),
        ("  Downloading rich-15.0.0-py3-none-any.whl.metadata (18 kB)\n", None),
        ("Requirement already satisfied: numpy in ./lib\n", None),
        ("Installing collected packages: a, b, c\n", "installing a, b, c"),
        ("ERROR: No matching distribution\n", "ERROR: No matching distribution"),
    ],
)
def test_what_is_shown_of_pips_output(line, shown):
    assert environment.progress_line(line) == shown


@pytest.mark.parametrize(
    "line, cuda",
    [
        ("Collecting nvidia-cublas==13.0 (from torch==2.13.0)", True),
        ("  Downloading nvidia_cudnn_cu13-9.1-py3-none-any.whl (500 MB)", True),
        ("Processing /wheels/torch-2.13.0+cu130-cp311-linux_x86_64.whl", True),
        ("Processing /wheels/torch-2.13.0+cpu-cp311-linux_x86_64.whl", False),
        ("Collecting torch==2.13.0", False),
    ],
)
def test_a_cuda_build_is_noticed(line, cuda):
    assert environment.is_cuda_line(line) == cuda


def test_children_get_nothing_from_outside_their_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    variables = environment.child_environment(KERAS_BACKEND="jax")
    assert "PYTHONPATH" not in variables
    assert variables["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize("name", ["_environment", "test", "quickstart"])
def test_the_launchers_need_the_standard_library_alone(name):
    script = (
        f"import sys; sys.path.insert(0, {str(TOOLS)!r}); "
        f"import runpy; runpy.run_path({str(TOOLS / name)!r} + '.py'); "
        "print(sorted({m.partition('.')[0] for m in sys.modules}"
        " - sys.stdlib_module_names))"
    )
    # Without site-packages anything else could not even be imported.
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = set(re.findall(r"'(\w+)'", done.stdout))
    assert found <= {"__main__", "_environment", "_profile"}


# The quickstart -----------------------------------------------------------------


def test_an_output_folder_is_never_written_over(tmp_path):
    wanted = tmp_path / "jax"
    assert quickstart.choose_output(wanted, overwrite=False) == wanted
    wanted.mkdir()
    assert quickstart.choose_output(wanted, overwrite=False) == wanted  # empty
    (wanted / "cgan.keras").touch()
    assert quickstart.choose_output(wanted, overwrite=False) == tmp_path / "jax-2"
    (tmp_path / "jax-2").mkdir()
    (tmp_path / "jax-2" / "cgan.keras").touch()
    assert quickstart.choose_output(wanted, overwrite=False) == tmp_path / "jax-3"
    assert quickstart.choose_output(wanted, overwrite=True) == wanted


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "0"], "--epochs must be at least 1; got 0"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--output", __file__], "is a file"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message, capsys):
    with pytest.raises(SystemExit):
        quickstart.parse(arguments)
    assert message in capsys.readouterr().err


def test_an_unknown_backend_is_refused_before_anything_is_installed():
    done = subprocess.run(
        [sys.executable, str(TOOLS / "quickstart.py")],
        env={**os.environ, "KERAS_BACKEND": "theano"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "tensorflow, jax, torch; got 'theano'" in done.stderr


def test_the_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib").use("Agg")
    images = np.full((6, 28, 28, 1), -1, "float32")
    images[3:] = 1
    quickstart.draw_samples(tmp_path / "samples.png", images, ["Black", "White"])
    with image.open(tmp_path / "samples.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (4 + 2 * 60, 130 + 3 * 60)
    assert (pixels[4:60, 130:186] == 0).all()
    assert (pixels[64:120, 130:186] == 255).all()
    history = {"discriminator_loss": [1.0, 0.5], "generator_loss": [0.0, 0.1]}
    quickstart.draw_losses(tmp_path / "losses.png", history, "jax")
    with image.open(tmp_path / "losses.png") as picture:
        assert picture.size == (840, 480)


def test_hidden_packages_cannot_be_imported():
    script = (
        f"import sys; sys.path.insert(0, {str(TOOLS)!r})\n"
        "import quickstart\n"
        "quickstart.hide(quickstart.HIDDEN)\n"
        "import importlib.util, numpy\n"
        "assert importlib.util.find_spec('keras') is None\n"
        "try:\n    import keras\n"
        "except ModuleNotFoundError:\n    print('hidden')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.stdout.strip() == b"hidden", done.stderr


# The data's maker ---------------------------------------------------------------


def test_the_first_of_each_class_in_file_order():
    labels = np.array([*range(10), *reversed(range(10)), *range(10)])
    chosen = make_fashion_mnist.first_of_each_class(labels, 2)
    assert chosen.tolist() == list(range(20))
    with pytest.raises(SystemExit, match="fewer than 4"):
        make_fashion_mnist.first_of_each_class(labels, 4)


def test_the_same_arrays_give_the_same_bytes():
    arrays = {"x": np.arange(1000, dtype="uint8"), "y": np.zeros((3, 2), "uint8")}
    assert make_fashion_mnist.pack(arrays) == make_fashion_mnist.pack(arrays)


# Golden files -------------------------------------------------------------------


def test_a_golden_file_is_signed_anew_only_where_its_numbers_hold(tmp_path):
    from tests.support import conformance

    names, numbers = ["hidden_dim"], [1.0, 2.0]

    class Golden(conformance.Golden):
        path = tmp_path / "line.json"

        def __post_init__(self):
            """It is not one of the tests' own."""

    golden = Golden("line", lambda: names, lambda: {"y": np.array(numbers)})
    golden.write()
    written = golden.path.read_text()
    assert not golden.sign() and golden.path.read_text() == written
    names[0] = "width"
    numbers[0] += 5e-5  # another backend's rounding
    assert golden.sign()
    np.testing.assert_array_equal(golden.read()["y"], [1.0, 2.0])
    names[0], numbers[0] = "depth", 1.1
    written = golden.path.read_text()
    with pytest.raises(AssertionError, match="line: y: off by 0.1"):
        golden.sign()
    assert golden.path.read_text() == written
