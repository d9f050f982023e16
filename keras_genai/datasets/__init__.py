"""Real data, as NumPy arrays and strings.

Inside the package, with nothing to download:

- `load("fashion_mnist")`, `load("quickdraw")`: labelled images; `names()` lists them,
  `class_names(name)` says what the labels mean.
- `emoji(style="google")`, `emoji(style="fluent")`: pictures with captions.
- `text("shakespeare")`, `pairs("verses")`: a long text, and sentences in English and
  Spanish.

One's own files:

- `folder(path, size)`: images by classes, with captions or alone, in memory or lazily;
  `prepare(images, size)`: photos of any size as an array of one size.
- `augmented(data, layers)`: batches whose images random layers of Keras change.
- `pairs("own.tsv")`: texts in two columns.

Fetched into the cache folder (`KERAS_GENAI_DATA`, by default `~/.keras/keras_genai`),
and checked whenever they are read: `load("mnist")`, `load("cifar10")`,
`load("fashion_mnist_full")`, `photographs()`, `table("adult")`, `table("flights")`,
`chorales()`.

Sources and licences are in `NOTICE.md` beside this file.
"""

from keras_genai.datasets._files import cache_folder
from keras_genai.datasets.augmentation import Augmented, augmented
from keras_genai.datasets.folders import ImageFolder, folder
from keras_genai.datasets.images import class_names, emoji, load, names, photographs
from keras_genai.datasets.preparation import prepare
from keras_genai.datasets.texts import chorales, pairs, table, text

__all__ = [
    "Augmented",
    "ImageFolder",
    "augmented",
    "cache_folder",
    "chorales",
    "class_names",
    "emoji",
    "folder",
    "load",
    "names",
    "pairs",
    "photographs",
    "prepare",
    "table",
    "text",
]
