"""Layers shared by the families."""

from keras_genai.layers.attention import Attention, attention_mask
from keras_genai.layers.convolution import Conv2D, Conv2DTranspose, DepthwiseConv2D
from keras_genai.layers.dense import Dense
from keras_genai.layers.dropout import Dropout
from keras_genai.layers.embedding import Embedding
from keras_genai.layers.group_normalization import GroupNormalization
from keras_genai.layers.leaky_relu import LeakyReLU
from keras_genai.layers.normalization import (
    BatchNormalization,
    ConditionalBatchNormalization,
)
from keras_genai.layers.positions import (
    PositionEmbedding,
    alibi_slopes,
    rotary_angles,
    rotate,
    sinusoidal_positions,
)
from keras_genai.layers.quantizers import FiniteScalarQuantizer, GumbelQuantizer
from keras_genai.layers.resnet_blocks import (
    Downsample2D,
    ResNetBlock,
    SelfAttention2D,
    Upsample2D,
)
from keras_genai.layers.spatial_transformer import CrossAttention2D
from keras_genai.layers.spectral_normalization import SpectralNormalization
from keras_genai.layers.time_embedding import TimeEmbedding, sinusoidal_embedding
from keras_genai.layers.transformer_block import FeedForward, TransformerBlock
from keras_genai.layers.vector_quantizers import (
    ResidualVectorQuantizer,
    VectorQuantizer,
)

__all__ = [
    "Attention",
    "BatchNormalization",
    "ConditionalBatchNormalization",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "CrossAttention2D",
    "Downsample2D",
    "Dropout",
    "Embedding",
    "FeedForward",
    "FiniteScalarQuantizer",
    "GroupNormalization",
    "GumbelQuantizer",
    "LeakyReLU",
    "PositionEmbedding",
    "ResNetBlock",
    "ResidualVectorQuantizer",
    "SelfAttention2D",
    "SpectralNormalization",
    "TimeEmbedding",
    "TransformerBlock",
    "Upsample2D",
    "VectorQuantizer",
    "alibi_slopes",
    "attention_mask",
    "rotary_angles",
    "rotate",
    "sinusoidal_embedding",
    "sinusoidal_positions",
]
