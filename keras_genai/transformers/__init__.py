"""Sequence models by attention (1706.03762): texts and images as tokens."""

from keras_genai.transformers.bert import BERT
from keras_genai.transformers.gpt import GPT
from keras_genai.transformers.gpt_network import GPTNetwork
from keras_genai.transformers.llama2c import stories15m
from keras_genai.transformers.mlm import sentence_pairs
from keras_genai.transformers.pretrained import minilm
from keras_genai.transformers.tokenizers import Tokenizer
from keras_genai.transformers.translator import Translator, WarmupSchedule
from keras_genai.transformers.vit import ViT
from keras_genai.transformers.vit_network import ViTNetwork

__all__ = [
    "BERT",
    "GPT",
    "GPTNetwork",
    "Tokenizer",
    "Translator",
    "ViT",
    "ViTNetwork",
    "WarmupSchedule",
    "minilm",
    "sentence_pairs",
    "stories15m",
]
