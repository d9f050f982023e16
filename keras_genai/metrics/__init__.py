"""Judges of generated samples, fed in batches, with the feature extractor handed in.

Every metric has `reset_state()`, `update_real(images)`, `update_generated(images,
condition=None)` and `result()`; `evaluate` feeds them from a model. The functions
beside them take features as NumPy arrays. Sums are kept in NumPy float64.
"""

from keras_genai.metrics.agreement import ClassAgreement
from keras_genai.metrics.evaluation import evaluate
from keras_genai.metrics.fashion_mnist import (
    fashion_mnist_classifier,
    fashion_mnist_features,
)
from keras_genai.metrics.frechet import (
    FID,
    FrechetInceptionDistance,
    fid,
    frechet_distance,
)
from keras_genai.metrics.inception import inception_v3
from keras_genai.metrics.kernel import KID, KernelInceptionDistance, kid
from keras_genai.metrics.manifold import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from keras_genai.metrics.metric import Metric
from keras_genai.metrics.retrieval import (
    clip_score,
    directional_similarity,
    recall_at_k,
)
from keras_genai.metrics.score import InceptionScore, inception_score
from keras_genai.metrics.translation import bleu, chrf

__all__ = [
    "FID",
    "KID",
    "ClassAgreement",
    "DensityCoverage",
    "FrechetInceptionDistance",
    "InceptionScore",
    "KernelInceptionDistance",
    "Metric",
    "PrecisionRecall",
    "bleu",
    "chrf",
    "clip_score",
    "density_coverage",
    "directional_similarity",
    "evaluate",
    "fashion_mnist_classifier",
    "fashion_mnist_features",
    "fid",
    "frechet_distance",
    "inception_score",
    "inception_v3",
    "kid",
    "precision_recall",
    "recall_at_k",
]
