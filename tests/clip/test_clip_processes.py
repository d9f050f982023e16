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
    exceptions={"devices": "In every way, by `TestGlobalBatch`."},
)


class TestGlobalBatch(processes.OnDevices):
    """The contrast is that of the global batch; its gradient is not one times N."""

    every_way = True

    @staticmethod
    def on_devices():
        results = {}
        count = processes.BATCH * 2
        weight = conformance.uniform("clip/weight", (count,), 0.2, 2.0)
        for name, arguments, accumulate in (
            ("softmax", {"mask_equal_captions": True}, 1),
            ("sigmoid", {"loss": "sigmoid", "pooling": "attention"}, 1),
            ("in parts", {"mask_equal_captions": True}, 2),
        ):
            model = tiny(**arguments)
            model.compile(keras.optimizers.SGD(0.05), accumulate=accumulate)
            x, _ = _pairs(count)
            history = model.fit(
                x,
                sample_weight=weight,
                batch_size=processes.BATCH,
                epochs=2,
                verbose=0,
            ).history
            results[f"{name}: losses"] = history["loss"]
            results[f"{name}: evaluated"] = model.evaluate(
                x, batch_size=processes.BATCH, verbose=0
            )
            results[f"{name}: weights"] = np.concatenate(
                [host(v.value).ravel() for v in model.variables]
            )
        return results

    def reference(self):
        return self.on_devices()
