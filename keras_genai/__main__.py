"""`python -m keras_genai`: what is installed, what trains, where data is looked for."""

import importlib.metadata
import os
import platform

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


def main() -> None:
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
