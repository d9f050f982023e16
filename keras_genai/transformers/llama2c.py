"""GPT's weights and tokenizer from the files of llama2.c, such as stories15M.bin.

Seven int32 (channels, inner channels, blocks, heads, heads of keys, words, context;
fewer than 0 words: the head is not the table), then float32 arrays, each of all blocks
together. Its rotary positions turn channels 2i and 2i + 1 as a pair; ours, as
transformers', i and i + d/2: the rows of queries and keys are put in that order.
"""

import json
import math
import pathlib
import struct
import tempfile

import numpy as np

from keras_genai.datasets import _files
from keras_genai.transformers.gpt import GPT
from keras_genai.transformers.tokenizers import Tokenizer
from keras_genai.utils.archives import check_plain

HEADER = (
    "hidden_dim",
    "intermediate_dim",
    "num_layers",
    "num_heads",
    "num_key_value_heads",
    "words",
    "max_sequence_length",
)


def read(path):
    """The sizes and the arrays of a file.

    Args:
        path: of the file; what follows the arrays in it (a tokenizer) is left alone.

    Returns:
        `(sizes, arrays, end)`: two dicts, and the number of bytes that they take.
        Matrices are `(blocks, out, in)`.

    Raises:
        ValueError: it is no such file, or cut short.
    """
    data = _bytes(path)
    if len(data) < 28:
        raise ValueError(f"{path} is too short for a checkpoint of llama2.c.")
    sizes = dict(zip(HEADER, struct.unpack("<7i", data[:28]), strict=True))
    words, sizes["tie_word_embeddings"] = sizes.pop("words"), False
    if words > 0:
        sizes["tie_word_embeddings"] = True
    sizes["vocabulary_size"] = abs(words)
    if (
        min(
            sizes[name]
            for name in (*HEADER[:5], "max_sequence_length", "vocabulary_size")
        )
        < 1
    ):
        raise ValueError(f"{path} is no checkpoint of llama2.c: its sizes are {sizes}.")
    if (
        sizes["hidden_dim"] % sizes["num_heads"]
        or sizes["num_heads"] % sizes["num_key_value_heads"]
    ):
        raise ValueError(f"{path} is no checkpoint of llama2.c: its sizes are {sizes}.")
    shapes = _shapes(**sizes)
    count = sum(math.prod(shape) for shape in shapes.values())
    if len(data) < 28 + 4 * count:
        raise ValueError(
            f"{path} is cut short: its sizes ask for {28 + 4 * count} bytes, and there "
            f"are {len(data)}."
        )
    flat, arrays = np.frombuffer(data, "<f4", count, 28), {}
    for name, shape in shapes.items():
        arrays[name], flat = np.split(flat, [math.prod(shape)])
        arrays[name] = arrays[name].reshape(shape)
    return sizes, arrays, 28 + 4 * count


def _bytes(path):
    try:
        check_plain(path)
    except ValueError as error:
        raise ValueError(f"{path} is no file of llama2.c: {error}.") from None
    return pathlib.Path(path).read_bytes()


def _shapes(
    hidden_dim,
    intermediate_dim,
    num_layers,
    num_heads,
    num_key_value_heads,
    max_sequence_length,
    tie_word_embeddings,
    vocabulary_size,
):
    """The arrays in the order of the file."""
    each = hidden_dim // num_heads
    kv = num_key_value_heads * each
    shapes = {
        "embedding": (vocabulary_size, hidden_dim),
        "norm1": (num_layers, hidden_dim),
        "query": (num_layers, hidden_dim, hidden_dim),
        "key": (num_layers, kv, hidden_dim),
        "value": (num_layers, kv, hidden_dim),
        "out": (num_layers, hidden_dim, hidden_dim),
        "norm2": (num_layers, hidden_dim),
        "gate": (num_layers, intermediate_dim, hidden_dim),
        "dense2": (num_layers, hidden_dim, intermediate_dim),
        "dense1": (num_layers, intermediate_dim, hidden_dim),
        "norm_last": (hidden_dim,),
        "cosines": (max_sequence_length, each // 2),
        "sines": (max_sequence_length, each // 2),
    }
    return (
        shapes
        if tie_word_embeddings
        else {**shapes, "head": (vocabulary_size, hidden_dim)}
    )


def load(path, **arguments):
    """A `GPT` of such a file.

    Args:
        path: of the file.
        **arguments: of `GPT`, beside what the file says, such as `tokenizer`.

    Raises:
        ValueError: it is no such file, or cut short.

    Example:

    ```python
    from keras_genai.transformers import llama2c
    tokenizer = llama2c.load_tokenizer("tokenizer.bin", vocabulary_size=32000)
    model = llama2c.load("stories15M.bin", tokenizer=tokenizer)
    model.generate("Once upon a time", max_new_tokens=200, temperature=0.8)
    ```
    """
    sizes, arrays, _ = read(path)
    given = {**GPT.LLAMA, **sizes, "layer_norm_epsilon": 1e-5, "eos_token_id": 1}
    model = GPT(**{**given, **arguments})
    network, each = model.network, sizes["hidden_dim"] // sizes["num_heads"]

    def halves(matrix):
        rows = matrix.reshape(-1, each // 2, 2, matrix.shape[-1])
        return rows.swapaxes(1, 2).reshape(matrix.shape)

    network.embedding.embeddings.assign(arrays["embedding"])
    network.norm_last.scale.assign(arrays["norm_last"])
    if network.head is not None:
        network.head.kernel.assign(arrays["head"].T)
    for i, block in enumerate(network.blocks):
        block.norm1.scale.assign(arrays["norm1"][i])
        block.norm2.scale.assign(arrays["norm2"][i])
        for name in ("query", "key", "value", "out"):
            matrix = arrays[name][i]
            matrix = halves(matrix) if name in ("query", "key") else matrix
            getattr(block.self_attention, name).kernel.assign(matrix.T)
        for name in ("gate", "dense1", "dense2"):
            getattr(block.feed_forward, name).kernel.assign(arrays[name][i].T)
    return model


def stories15m(**arguments):
    """stories15M: a small `GPT` of Llama's kind that tells stories for children.

    Six blocks of 288 channels and 32,000 words, trained by A. Karpathy (llama2.c) on
    TinyStories (2305.07759). Not in the package:
    `python tools/fetch_data.py stories15m` fetches it.

    Args:
        **arguments: of `GPT`.

    Returns:
        `GPT`, with its tokenizer.

    Raises:
        FileNotFoundError: it was not fetched.

    Example:

    ```python
    model = kg.transformers.stories15m()
    print(model.generate("Once upon a time", temperature=0.8, top_p=0.9, seed=0))
    ```
    """
    arrays = _files.read_cached("stories15m")
    if arrays is None:
        raise _files.unavailable("stories15m")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "llama2.data"
        path.write_bytes(arrays["data"].tobytes())
        sizes, _, end = read(path)
        tokenizer = load_tokenizer(path, sizes["vocabulary_size"], end)
        return load(path, **{"tokenizer": tokenizer, **arguments})


# The tokenizer

SPECIAL = ("<unk>", "<s>", "</s>")
SPACE = "\u2581"  # what stands for a space within a token


def load_tokenizer(path, vocabulary_size, offset=0):
    """The tokenizer of such a file: byte pairs by their scores, and single bytes.

    Args:
        path: of the file: an int32, then for each token its score in float32, the
            number of its bytes in int32, and these.
        vocabulary_size: how many tokens there are.
        offset: where in the file it begins.

    Returns:
        A `kg.Tokenizer`, whose texts begin with `<s>`.

    Raises:
        ValueError: it is no such file, or cut short.
        ImportError: `tokenizers` is not installed.
    """
    data, place = _bytes(path), offset + 4
    tokens, scores = [], []
    for _ in range(vocabulary_size):
        if place + 8 > len(data):
            raise ValueError(
                f"{path} is cut short: of {vocabulary_size} tokens it has "
                f"{len(tokens)}."
            )
        score, length = struct.unpack_from("<fi", data, place)
        text = data[place + 8 : place + 8 + length]
        if not 0 <= length <= 1000 or len(text) < length:
            raise ValueError(f"{path} is no tokenizer of llama2.c, at byte {place}.")
        tokens.append(text.decode("utf-8", "replace").replace(" ", SPACE))
        scores.append(score)
        place += 8 + length
    tokens[: len(SPECIAL)] = SPECIAL
    return Tokenizer("tokenizers", {"text": json.dumps(_tokenizer(tokens, scores))})


def _tokenizer(tokens, scores):
    """The content of Hugging Face's `tokenizer.json`."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # A pair is merged sooner the higher the score of what it becomes.
    pairs = []
    for i, token in enumerate(tokens):
        if i >= len(SPECIAL) and not (token[:3] == "<0x" and len(token) == 6):
            for cut in range(1, len(token)):
                if token[:cut] in vocabulary and token[cut:] in vocabulary:
                    pairs.append((-scores[i], i, token[:cut], token[cut:]))
    bos = {"SpecialToken": {"id": SPECIAL[1], "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    named = {"id": SPECIAL[1], "ids": [1], "tokens": [SPECIAL[1]]}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, token in enumerate(SPECIAL)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, second],
            "special_tokens": {SPECIAL[1]: named},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": SPECIAL[0],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [[a, b] for _, _, a, b in sorted(pairs)],
        },
    }
