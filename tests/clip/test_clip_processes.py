"""CLIP on devices, killed and resumed, as SavedModel and ONNX; its losses divided."""

import keras
import numpy as np

from tests.clip.test_clip_conformance import captions, tiny
from tests.support import conformance, processes
from tests.support.conformance import host


def _pairs(n):
    images = conformance.uniform("clip processes", (n, 8, 8, 3))
    return {"images": images, "tokens": captions("clip processes", n, 3)}, None


def _similarity(model, seed):
    x, _ = _pairs(4)
    return model.similarity(x["images"], x["tokens"][:, 0])


TestCLIPProcesses = processes.battery(
    lambda: tiny(mask_equal_captions=True),
    _pairs,
    sample=_similarity,
    ranges={"tokens": (1, 16)},
    sizes=(2, 4),
    methods={
        "encode_image": lambda model, images: model.encode_image(images),
        "encode_text": lambda model, tokens: host(
            model.text_embeddings(keras.ops.convert_to_tensor(tokens))
        ),
    },
    exceptions={"devices": "By `TestContrast` and its kin."},
)


class Divided(processes.OnDevices):
    """Trains on weighted pairs; of an odd number where a backend can divide that."""

    arguments, accumulate = {"mask_equal_captions": True}, 1

    @classmethod
    def on_devices(cls):
        count = processes.BATCH * 2
        model = tiny(**cls.arguments)
        model.compile(keras.optimizers.SGD(0.05), accumulate=cls.accumulate)
        x, _ = _pairs(count)
        weight = conformance.uniform("clip/weight", (count,), 0.2, 2.0)
        history = model.fit(
            x, sample_weight=weight, batch_size=processes.BATCH, epochs=2, verbose=0
        ).history
        weights = [host(v.value).ravel() for v in model.variables]
        results = {"losses": history["loss"], "weights": np.concatenate(weights)}
        if cls is TestContrast:
            size = processes.BATCH
            results["evaluated"] = model.evaluate(x, batch_size=size, verbose=0)
        return results

    def reference(self):
        return self.on_devices()


class TestContrast(Divided):
    """The contrast is that of the global batch; its gradient is not one times N."""


class TestGlobalBatchInParts(Divided):
    """Both at once: parts of the parts."""

    accumulate = 2


class TestSigmoids(Divided):
    """And SigLIP's, with a bias."""

    arguments = {"loss": "sigmoid", "pooling": "attention"}
