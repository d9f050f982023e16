"""Reading and writing published weights: two methods for every class that has them."""

import importlib

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import either, integer, optional, text


class Pretrained:
    """The part of a model or a network that is read from other libraries' folders.

    A class says which layout is its own by `weights_module`, the name of a module of
    `keras_genai.weights` with `load(cls, source, subfolder, variant, **arguments)` and
    `save(model, folder, dtype, max_shard_size)`, and in its docstring which of the
    library's classes it stands for. Such a module imports no model: what else a folder
    holds, a class names as its `tokenizer_class`, `network_class` or `schedule_class`.
    """

    weights_module = None
    max_shard_size = "10GB"

    @classmethod
    @checked()
    def from_pretrained(cls, source, *, subfolder=None, variant=None, **arguments):
        """A model with published weights, in the layout of transformers or diffusers.

        The docstring of the class says which of their classes are read. Only JSON and
        safetensors are, never a pickle.

        Args:
            source: path of a folder with `config.json` and the weights (whole or in
                shards), or an id of the Hugging Face hub, `"owner/name"`.
            subfolder: folder within it, such as `"vae"` of a Stable Diffusion pipeline.
            variant: part of the weights' name, such as `"fp16"` of
                `model.fp16.safetensors`.
            **arguments: of the constructor, over what the configuration says.

        Returns:
            The model, its weights in float32.

        Raises:
            ValueError: the configuration is of another network (names the keys);
                tensors are missing, extra or misshapen (lists them); or the weights
                are a pickle.
            ImportError: `safetensors`, or `huggingface_hub` for an id, is missing.
            OSError: the hub cannot be reached.

        Example:

        ```python
        model = kg.GPT.from_pretrained("SmolLM2-135M")
        vae = kg.AutoencoderKL.from_pretrained("sd-v1-5", subfolder="vae")
        ```
        """
        return _layout(cls).load(cls, source, subfolder, variant, **arguments)

    @checked(dtype=text, max_shard_size=optional(either(text, integer(1))))
    def save_pretrained(self, folder, dtype="float32", max_shard_size=None, **kwargs):
        """Writes the model as the library reads it whose layout is `from_pretrained`'s.

        Args:
            folder: path, made if need be; the model's files in it are replaced, all of
                them or none.
            dtype: of the weights' file: `"float32"`, `"float16"`, `"bfloat16"` or
                `"float64"`. In the dtype of the file that they came from, they are its
                tensors to the bit.
            max_shard_size: `"5GB"`, `"200MB"` or a number of bytes: larger weights are
                written in several files beside an index; by default the library's own.

        Raises:
            ValueError: for another dtype, or a network that the library does not have.
            ImportError: `safetensors` is not installed.
        """
        size = max_shard_size or self.max_shard_size
        _layout(type(self)).save(self, folder, dtype, size, **kwargs)


def _layout(cls):
    # When it is asked for: it needs packages that a model does without.
    return importlib.import_module(f"keras_genai.weights.{cls.weights_module}")
