"""Sequence models by attention (1706.03762): texts and images as tokens."""

from keras_genai.transformers.gpt import GPT
from keras_genai.transformers.tokenizers import Tokenizer

__all__ = ["GPT", "Tokenizer"]
