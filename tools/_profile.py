"""Where the time of a test run goes: by family, backend, file and check.

Times are process-seconds: those of the processors, in the run's processes and in all
that they started and waited for. They hardly depend on what else the machine does.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

ROOT = Path(__file__).resolve().parent.parent
# What a family may cost in one run, with its tutorial: the aim, and where it fails.
BUDGET, LIMIT = 250.0, 300.0
LINES = 25  # of each table
# Family, a row of the README's table -> patterns of its test files, and its tutorials:
# the first that fits. What no family has is shared.
FAMILIES = {
    "gans": ["gans/*", "01_*"],
    "vae": ["vaes/test_vae*", "vaes/test_dreg.py", "02_*"],
    "vqvae": ["vaes/test_vqvae*", "vaes/test_pixelcnn*", "03_*"],
    "autoencoder_kl": ["*/test_autoencoder_kl*"],
    # Of diffusion: its model, the networks that it trains, what is usable alone.
    "ddpm": [
        "*/test_ddpm*",
        "diffusion/test_golden.py",
        "diffusion/test_latents.py",
        "04_*",
    ],
    "unet and dit": ["diffusion/test_unet*", "diffusion/test_dit*"],
    "samplers": ["diffusion/*", "05_*"],
    "gpt": [
        "*/test_gpt*",
        "transformers/test_generation.py",
        "transformers/test_stories.py",
        "06_*",
    ],
    "bert": ["*/test_bert*", "transformers/test_minilm.py", "08_*"],
    "clip": ["clip/*", "10_*"],
    "text_to_image": ["text_to_image/*", "14_*"],
    "vit": ["*/test_vit*", "09_*"],
    "translator": [
        "transformers/test_seq2seq*",
        "weights/test_marian.py",
        "metrics/test_translation.py",
        "07_*",
    ],
    "dream": ["dream/*", "weights/test_imagenet.py", "11_*"],
}


@dataclass(frozen=True)
class Spent:
    """Process-seconds of one test, or of what a step spent beside its tests."""

    backend: str
    file: str
    check: str
    seconds: float


def of_report(report: Path, backend: str, total: float) -> list[Spent]:
    """The times that pytest's JUnit report holds, and what is left of the total."""
    spent = []
    try:
        cases = list(ET.parse(report).getroot().iter("testcase"))
    except (OSError, ET.ParseError):
        cases = []
    for case in cases:
        seconds = sum(
            float(each.get("value", 0))
            for each in case.iter("property")
            if each.get("name") == "process_seconds"
        )
        name = case.get("name", "").partition("[")[0]
        spent.append(Spent(backend, file_of(case.get("classname", "")), name, seconds))
    rest = total - sum(each.seconds for each in spent)
    return [*spent, Spent(backend, "(imports, workers)", "(imports, workers)", rest)]


def file_of(classname: str) -> str:
    """`tests.gans.test_cgan.TestCGAN` -> `gans/test_cgan.py`."""
    parts = [part for part in classname.split(".") if part]
    for end in range(len(parts), 0, -1):
        path = Path(*parts[:end]).with_suffix(".py")
        if (ROOT / path).is_file():
            return path.relative_to("tests").as_posix()
    return classname


def family_of(file: str) -> str:
    """The family that a test file or a tutorial belongs to."""
    for family, patterns in FAMILIES.items():
        if any(PurePath(file).match(pattern) for pattern in patterns):
            return family
    return "shared"


def tables(spent: Iterable[Spent]) -> str:
    """The process-seconds by family, file and check, each by backend."""
    spent = list(spent)
    total = sum(each.seconds for each in spent)
    texts = [f"Process-seconds: {total:.0f}"]
    for title, key in (
        ("family", lambda each: family_of(each.file)),
        ("file", lambda each: each.file),
        ("check", lambda each: each.check),
    ):
        texts.append(_table(title, key, spent))
    return "\n\n".join(texts)


def _table(title, key, spent):
    backends = sorted({each.backend for each in spent})
    sums = defaultdict(lambda: dict.fromkeys(backends, 0.0))
    for each in spent:
        sums[key(each)][each.backend] += each.seconds
    order = sorted(sums, key=lambda name: -sum(sums[name].values()))
    lines = [f"{title:40}" + "".join(f"{b:>12}" for b in backends) + f"{'all':>8}"]
    for name in order[:LINES]:
        each = "".join(f"{sums[name][b]:12.1f}" for b in backends)
        lines.append(f"{name[:40]:40}{each}{sum(sums[name].values()):8.1f}")
    return "\n".join(lines)


def over_the_limit(spent: Iterable[Spent]) -> list[str]:
    """What is to be said of each family that costs more than it may."""
    sums = defaultdict(float)
    for each in spent:
        sums[family_of(each.file)] += each.seconds
    return [
        f"{family} costs {seconds:.0f} process-seconds; it may cost {BUDGET:.0f} and "
        f"fails beyond {LIMIT:.0f}."
        for family, seconds in sums.items()
        if family in FAMILIES and seconds > LIMIT
    ]
