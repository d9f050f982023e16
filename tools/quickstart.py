"""The first five minutes: train a class-conditional GAN on pictures of clothes.

    python tools/quickstart.py
    KERAS_BACKEND=jax python tools/quickstart.py        (or torch)

Makes or reuses `.venv`, installs what is needed, trains `kg.CGAN` with `fit()` on
the Fashion-MNIST images inside the package, and writes to
`quickstart_output/<backend>/`

    samples.png       ten generated images of each class
    losses.png        both players' losses
    cgan.keras        the model: weights, averaged weights, optimizers, noise
    cgan_savedmodel/  the generator, for TensorFlow alone
    logs/             losses and a grid for each epoch: tensorboard --logdir

then runs the SavedModel in a process that has TensorFlow but neither Keras nor this
package, and compares. A folder that is there is left alone: the next run goes to
`<backend>-2/`, unless `--overwrite` is given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _environment as environment

# All that decides what is trained. The classes and the size come with the data.
RECIPE = {
    "model": {
        "image_shape": (28, 28, 1),
        "num_classes": 10,
        "latent_dim": 64,
        "base_filters": 32,
        "discriminator_filters": 48,
        "generator_conditioning": ("concatenation", "conditional_batch_norm"),
        "discriminator_conditioning": "projection",
        "discriminator_normalization": None,
        "initialization": "glorot_uniform",
        "loss": "non_saturating",
        "penalties": {"r1": 0.5},
        "penalty_interval": 16,
        "ema_decay": 0.998,
    },
    # The learning rate falls to 0 with the square root of the steps that are left.
    "learning_rate": 2e-3,
    "adam": {"beta_1": 0.0, "beta_2": 0.99},
    "batch_size": 64,
    "epochs": 8,
    "samples_per_class": 10,
}
AGREEMENT = 1e-4  # how far the SavedModel may be from model.generate
HIDDEN = ("keras", "keras_genai", "tf_keras", "jax", "torch")


def main() -> int:
    """Prepare the environment, then run the training in it."""
    options = parse(sys.argv[1:])
    if options.stage == "train":
        return train(options)
    if options.stage == "serve":
        return serve(options.output)
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in environment.BACKENDS:
        raise SystemExit(
            f"KERAS_BACKEND must be one of {', '.join(environment.BACKENDS)}; got "
            f"{backend!r}."
        )
    wanted = options.output or environment.ROOT / "quickstart_output" / backend
    output = choose_output(wanted, options.overwrite)
    # TensorFlow also where another backend trains: it is what runs the SavedModel.
    python = environment.prepare(
        environment.ROOT / ".venv",
        [backend, "tensorflow", "keras", "pictures", "logs"],
    )
    output.mkdir(parents=True, exist_ok=True)
    command = [str(python), __file__, "--stage", "train", "--output", str(output)]
    command += ["--epochs", str(options.epochs), "--seed", str(options.seed)]
    variables = environment.child_environment(
        KERAS_BACKEND=backend,
        MPLBACKEND="Agg",
        # TensorFlow reports, as an error, an optimisation of its graph that it skips.
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    return subprocess.run(command, env=variables, check=False).returncode


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; what is wrong with it is said before anything is installed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="default: quickstart_output/<backend>"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run wrote"
    )
    parser.add_argument("--stage", choices=("train", "serve"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1; got {options.epochs}")
    if not 0 <= options.seed < 2**31:
        parser.error(f"--seed must be from 0 to 2147483647; got {options.seed}")
    if options.output and options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder; {options.output} is a file")
    return options


def choose_output(wanted: Path, overwrite: bool) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, ... with nothing in it."""
    folder, number = wanted.resolve(), 1
    while not overwrite and folder.exists() and any(folder.iterdir()):
        number += 1
        folder = wanted.resolve().with_name(f"{wanted.name}-{number}")
    return folder


def train(options: argparse.Namespace) -> int:
    """Train, write the files, check the SavedModel and print the table."""
    import keras
    import numpy as np

    import keras_genai as kg

    output = options.output
    classes = kg.datasets.class_names("fashion_mnist")
    (images, labels), test = kg.datasets.load("fashion_mnist")
    print(
        f"\n{len(images):,} images of {len(classes)} classes; Keras {keras.__version__}"
        f" on {keras.backend.backend()}; epochs: {options.epochs}",
        flush=True,
    )

    model = kg.CGAN(**RECIPE["model"], seed=options.seed)
    steps = options.epochs * math.ceil(len(images) / RECIPE["batch_size"])
    rate = keras.optimizers.schedules.PolynomialDecay(
        RECIPE["learning_rate"], steps, end_learning_rate=0.0, power=0.5
    )
    model.compile(
        generator_optimizer=keras.optimizers.Adam(rate, **RECIPE["adam"]),
        discriminator_optimizer=keras.optimizers.Adam(rate, **RECIPE["adam"]),
    )
    wanted = np.repeat(np.arange(len(classes)), RECIPE["samples_per_class"])
    watchers = [
        kg.callbacks.ImageGrid(
            output / "logs", labels=wanted, columns=RECIPE["samples_per_class"]
        ),
        kg.callbacks.TensorBoard(output / "logs"),
    ]
    started = time.monotonic()
    history = model.fit(
        images,
        labels,
        batch_size=RECIPE["batch_size"],
        epochs=options.epochs,
        # A bar redraws itself on a terminal; in a file it would be a line a step.
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=watchers,
    )
    seconds = time.monotonic() - started

    samples = model.generate(labels=wanted, seed=options.seed)
    draw_samples(output / "samples.png", samples, classes)
    draw_losses(output / "losses.png", history.history, keras.backend.backend())
    print("Saving cgan.keras and cgan_savedmodel", flush=True)
    model.save(output / "cgan.keras")
    model.export(output / "cgan_savedmodel", overwrite=True)
    difference = compare_served(output, samples, wanted, options.seed)
    judged, floor = judge(model, images, *test, options.seed)

    agrees = difference <= AGREEMENT
    print(
        f"\nbackend     {keras.backend.backend()}"
        f"\ntraining    {seconds:.0f} s, {options.epochs} x {len(images):,} images"
        f"\nSavedModel  {difference:.1e} from model.generate at most"
        f" ({'within' if agrees else 'NOT within'} {AGREEMENT:.0e})"
        f"\nclasses     {judged['class_agreement']:.1%} of the samples are what was"
        " asked for"
        f"\nFID         {judged['fid']:.2f} (real against real: {floor:.2f}), by the"
        " package's classifier"
        f"\nfiles       {output}"
    )
    for name in ("samples.png", "losses.png", "cgan.keras", "cgan_savedmodel", "logs"):
        print(f"            {name}")
    return 0 if agrees else 1


def judge(model, images, test_images, test_labels, seed: int):
    """The samples' metrics beside the test images, and the distance of real ones."""
    import keras_genai as kg

    print("Judging as many samples as there are test images", flush=True)
    features = kg.metrics.fashion_mnist_features()
    metrics = [
        kg.metrics.ClassAgreement(kg.metrics.fashion_mnist_classifier()),
        kg.metrics.FID(features),
    ]
    judged = kg.metrics.evaluate(model, metrics, test_images, test_labels, seed=seed)
    floor = kg.metrics.FID(features)
    floor.update_real(test_images)
    floor.update_generated(images[: len(test_images)])
    return judged, floor.result()["fid"]


def compare_served(output: Path, samples, labels, seed: int) -> float:
    """The largest difference of the SavedModel's images, from a process of its own."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder) / "request.json"
        served = Path(folder) / "served.npy"
        content = {
            "model": str(output / "cgan_savedmodel"),
            "seed": seed,
            "labels": labels.tolist(),
            "images": str(served),
        }
        request.write_text(json.dumps(content), encoding="utf-8")
        variables = environment.child_environment()
        del variables["KERAS_BACKEND"]
        done = subprocess.run(
            [sys.executable, __file__, "--stage", "serve", "--output", str(folder)],
            env=variables,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise SystemExit(
                f"{done.stderr}\nTensorFlow alone could not run the SavedModel."
            )
        return float(np.max(np.abs(np.load(served) - samples)))


def serve(folder: Path) -> int:
    """Run a SavedModel where only TensorFlow can be imported."""
    hide(HIDDEN)
    import numpy as np
    import tensorflow as tf

    content = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    model = tf.saved_model.load(content["model"])
    images = model.signatures["generate"](
        seed=tf.constant(content["seed"], "int32"),
        labels=tf.constant(content["labels"], "int32"),
    )["images"]
    loaded = {name.partition(".")[0] for name in sys.modules}.intersection(HIDDEN)
    assert not loaded, f"imported beside TensorFlow: {sorted(loaded)}"
    np.save(content["images"], images.numpy())
    print(f"SavedModel run by TensorFlow {tf.__version__} alone", flush=True)
    return 0


def hide(names: tuple[str, ...]) -> None:
    """Make these packages look as if they were not installed.

    Needed because `import tensorflow` itself imports Keras and JAX where they are.
    """

    class Without:
        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in names:
                return None
            return self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]


def draw_samples(path: Path, images, names: list[str]) -> None:
    """A row of images for each class, with the class's name on the left.

    Args:
        path: the PNG file.
        images: (classes * columns, H, W, 1), in [-1, 1], class by class.
        names: the classes' names.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    scale, margin, gap = 2, 130, 4
    _, height, width, _ = images.shape
    columns = len(images) // len(names)
    cell = (width * scale + gap, height * scale + gap)
    size = (margin + columns * cell[0], gap + len(names) * cell[1])
    picture = Image.new("L", size, 255)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    pixels = np.clip((images[..., 0] + 1) * 127.5 + 0.5, 0, 255).astype("uint8")
    for row, name in enumerate(names):
        top = gap + row * cell[1]
        middle = top + height * scale / 2
        draw.text((margin - 10, middle), name, fill=0, font=font, anchor="rm")
        for column in range(columns):
            tile = Image.fromarray(pixels[row * columns + column])
            tile = tile.resize((width * scale, height * scale), Image.BICUBIC)
            picture.paste(tile, (margin + column * cell[0], top))
    picture.save(path)


def draw_losses(path: Path, history: dict[str, list[float]], backend: str) -> None:
    """Both players' losses over the epochs."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in ("discriminator_loss", "generator_loss"):
        epochs = range(1, len(history[name]) + 1)
        label = name.removesuffix("_loss")
        axes.plot(epochs, history[name], marker=".", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="loss", title=f"CGAN on Fashion-MNIST ({backend})")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
