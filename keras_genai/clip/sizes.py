"""The published networks of CLIP, OpenCLIP and SigLIP by their names."""

from keras_genai.clip.resnet import ResNetTower
from keras_genai.clip.towers import ImageTower, TextTower

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, of images in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)  # SigLIP's: images in [-1, 1] are left as they are
END = 49407  # of CLIP's vocabulary

# 2103.00020, tables 19 and 20; H, g and bigG of open_clip's configurations; SigLIP of
# 2303.15343 and 2305.13035. Images: (side, patch, layers, channels, heads, inside) or
# (side, blocks of the stages, filters); texts: (layers, channels, heads, inside).
SIZES = {
    "RN50": (1024, (224, (3, 4, 6, 3), 64), (12, 512, 8, 2048)),
    "RN101": (512, (224, (3, 4, 23, 3), 64), (12, 512, 8, 2048)),
    "RN50x4": (640, (288, (4, 6, 10, 6), 80), (12, 640, 10, 2560)),
    "RN50x16": (768, (384, (6, 8, 18, 8), 96), (12, 768, 12, 3072)),
    "RN50x64": (1024, (448, (3, 15, 36, 10), 128), (12, 1024, 16, 4096)),
    "ViT-B/32": (512, (224, 32, 12, 768, 12, 3072), (12, 512, 8, 2048)),
    "ViT-B/16": (512, (224, 16, 12, 768, 12, 3072), (12, 512, 8, 2048)),
    "ViT-L/14": (768, (224, 14, 24, 1024, 16, 4096), (12, 768, 12, 3072)),
    "ViT-L/14@336px": (768, (336, 14, 24, 1024, 16, 4096), (12, 768, 12, 3072)),
    "ViT-H/14": (1024, (224, 14, 32, 1280, 16, 5120), (24, 1024, 16, 4096)),
    "ViT-g/14": (1024, (224, 14, 40, 1408, 16, 6144), (24, 1024, 16, 4096)),
    "ViT-bigG/14": (1280, (224, 14, 48, 1664, 16, 8192), (32, 1280, 20, 5120)),
    "SigLIP-B/16": (768, (224, 16, 12, 768, 12, 3072), (12, 768, 12, 3072)),
    "SigLIP-B/16-256": (768, (256, 16, 12, 768, 12, 3072), (12, 768, 12, 3072)),
    "SigLIP-B/16-384": (768, (384, 16, 12, 768, 12, 3072), (12, 768, 12, 3072)),
    "SigLIP-B/16-512": (768, (512, 16, 12, 768, 12, 3072), (12, 768, 12, 3072)),
    "SigLIP-L/16-256": (1024, (256, 16, 24, 1024, 16, 4096), (24, 1024, 16, 4096)),
    "SigLIP-L/16-384": (1024, (384, 16, 24, 1024, 16, 4096), (24, 1024, 16, 4096)),
    "SigLIP-So400m/14-224": (1152, (224, 14, 27, 1152, 16, 4304), None),
    "SigLIP-So400m/14-384": (1152, (384, 14, 27, 1152, 16, 4304), None),
}
_SHAPE = ("patch_size", "num_layers", "hidden_dim", "num_heads", "intermediate_dim")
# Trained by OpenCLIP with the exact GELU; OpenAI's approximate it (see `FeedForward`).
_EXACT = ("ViT-H/14", "ViT-g/14", "ViT-bigG/14")
SIGLIP = {"activation": "gelu_tanh", "layer_norm_epsilon": 1e-6}


def arguments_of(size):
    """What a name stands for: the arguments of `CLIP` and of its towers.

    Args:
        size: name of a row.

    Returns:
        `(image, text, clip)`: dicts; the first also has the tower's `class`.
    """
    if not isinstance(size, str) or size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}.")
    embed_dim, images, texts = SIZES[size]
    texts = texts or (27, 1152, 16, 4304)  # as its images
    text = dict(zip(_SHAPE[1:], texts, strict=True)) | {"projection_dim": embed_dim}
    side, *rest = images
    image = {"image_shape": (side, side, 3)}
    if size.startswith("SigLIP"):
        image |= {
            **dict(zip(_SHAPE, rest, strict=True)),
            **SIGLIP,
            "class": ImageTower,
            "pooling": "attention",
            "pre_norm": False,
            "patch_bias": True,
        }
        text |= {
            **SIGLIP,
            "vocabulary_size": 32000,
            "max_sequence_length": 64,
            "causal": False,
            "pooling": "last",
            "projection_bias": True,
        }
        clip = {"loss": "sigmoid", "mean": HALF, "std": HALF}
        return image, text, {**clip, "embed_dim": embed_dim, "pad_token_id": 1}
    text |= {"vocabulary_size": 49408, "max_sequence_length": 77, "eos_token_id": END}
    text["activation"] = activation = "gelu" if size in _EXACT else "quick_gelu"
    if size.startswith("RN"):
        image |= {"class": ResNetTower, "num_layers": rest[0], "filters": rest[1]}
    else:
        image |= {
            "class": ImageTower,
            **dict(zip(_SHAPE, rest, strict=True)),
            "activation": activation,
        }
    image["projection_dim"] = embed_dim
    return image, text, {"embed_dim": embed_dim, "mean": CLIP_MEAN, "std": CLIP_STD}


def towers_of(image, text, seed=0):
    """The two towers of `arguments_of`: `(image_tower, text_tower)`."""
    image = dict(image)
    kind = image.pop("class")
    return (
        kind(**image, seed=seed, stream="image", name="image_tower"),
        TextTower(**text, seed=seed, stream="text", name="text_tower"),
    )
