"""`python -m keras_genai`: what is installed, and pictures of texts.

python -m keras_genai                            what is installed, and where
python -m keras_genai draw "a red heart"         pictures of a text
"""

import argparse
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "torch",
    "keras-cv",
    "numpy",
    "pillow",
    "matplotlib",
    "tensorboard",
    "onnxruntime",
    "safetensors",
)


def main(arguments: list[str] | None = None) -> None:
    """Runs a sub-command; without one, `info`.

    Args:
        arguments: of the command line; by default the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m keras_genai", description="Generative models in Keras 3."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("info", help="what is installed, what trains, where data is")
    draw_of = commands.add_parser("draw", help="draw pictures of texts")
    draw_of.add_argument(
        "prompts", nargs="+", metavar="TEXT", help='such as "a red heart, flat style"'
    )
    draw_of.add_argument("--n", type=int, default=1, help="pictures of each text")
    draw_of.add_argument("--seed", type=int, default=0, help="an integer of at least 0")
    draw_of.add_argument(
        "--out",
        type=Path,
        default=Path("."),
        help="a folder, or for one picture a file that ends in .png (default: here)",
    )
    draw_of.add_argument("--negative", metavar="TEXT", help="what to lead away from")
    draw_of.add_argument("--guidance", type=float, metavar="SCALE", help="default 7.5")
    draw_of.add_argument("--steps", type=int, metavar="N", help="of the sampler")
    options = parser.parse_args(arguments)
    if options.command != "draw":
        info()
        return
    try:
        draw(options)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"python -m keras_genai draw: {error}") from None


def draw(options: argparse.Namespace) -> None:
    """Writes pictures of texts by the model in the package, and says where."""
    import keras_genai as kg

    single = options.out.suffix.lower() == ".png"
    if single and len(options.prompts) * options.n != 1:
        raise ValueError(
            f"--out {options.out} names one picture; for {options.n} of each of "
            f"{len(options.prompts)} texts give a folder."
        )
    model = kg.text_to_image.emoji()
    settings = {
        "prompts": options.prompts,
        "negative_prompts": options.negative,
        "n": options.n,
        "seed": options.seed,
        "guidance_scale": options.guidance,
        "num_steps": options.steps,
    }
    images = model.generate(**settings, verbose=sys.stderr.isatty())
    folder = options.out.parent if single else options.out
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        prompt = options.prompts[number // options.n]
        words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:60] or "picture"
        name = f"{words}-{options.seed}-{number}.png"
        path = options.out if single else folder / name
        kg.callbacks.save_image(path, image, **settings, number=number)
        print(path)


def info() -> None:
    """Prints versions, the backend with its devices, and the data folder."""
    import keras

    import keras_genai as kg

    devices = kg.backend.list_devices()
    rows = [
        ("keras_genai", kg.__version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        *((name, version(name)) for name in PACKAGES if version(name)),
        ("backend", f"{keras.backend.backend()} (set KERAS_BACKEND to change it)"),
        ("devices", ", ".join(devices)),
        ("precision", keras.config.dtype_policy().name),
        ("data", ", ".join(kg.datasets.names())),
        ("data folder", data_folder(kg)),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def data_folder(kg) -> str:
    """Where fetched data is looked for, and whether anything is there."""
    folder = kg.datasets.cache_folder()
    there = "there" if folder.is_dir() else "not there yet"
    chosen = "KERAS_GENAI_DATA" if "KERAS_GENAI_DATA" in os.environ else "default"
    return f"{folder} ({chosen}, {there})"


if __name__ == "__main__":
    main()
