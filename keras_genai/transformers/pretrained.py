"""Published models of texts that the data tool fetches."""

import pathlib
import tempfile

from keras_genai.datasets import _files
from keras_genai.transformers.bert import BERT


def minilm(**arguments):
    """all-MiniLM-L6-v2: a `BERT` whose `embed` gives near vectors to like sentences.

    Six layers of 384 channels (2002.10957), trained on a thousand million pairs of
    sentences. Not in the package: `python tools/fetch_data.py minilm` fetches it.

    Args:
        **arguments: of `BERT`.

    Returns:
        `BERT`, with its tokenizer.

    Raises:
        FileNotFoundError: it was not fetched.

    Example:

    ```python
    vectors = kg.transformers.minilm().embed(["A man plays.", "Someone makes music."])
    vectors[0] @ vectors[1]                           # their cosine
    ```
    """
    arrays = _files.read_cached("minilm")
    if arrays is None:
        raise _files.unavailable("minilm")
    with tempfile.TemporaryDirectory() as folder:
        for name, data in arrays.items():
            (pathlib.Path(folder) / name).write_bytes(data.tobytes())
        return BERT.from_pretrained(folder, variant="fp16", **arguments)
