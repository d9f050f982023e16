"""CLIP beside transformers' own, with the same weights: training and both encoders.

Contenders:

    b              kg.CLIP on each backend
    torch peer     transformers' `CLIPModel` as it comes (eager, with PyTorch's own
                   attention), in the usual loop

Tasks:

    step       a training step as `fit` calls it: AdamW, gradients clipped to norm 1
    images     the embeddings of a batch of images, from an array to an array
    texts      those of a batch of texts, of token ids

With `--quality`: `_clip_quality.py`, which trains and judges.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _beside as beside
from _beside import PEER

TITLE = "CLIP beside transformers'"
CASES = {
    "12 + 12 layers of 256, 64 pairs, images 112 x 112 by 16": {
        "image": {"patch_size": 16, "num_layers": 12, "hidden_dim": 256},
        "text": {"num_layers": 12, "hidden_dim": 256},
        "side": 112,
        "vocabulary_size": 8192,
        "length": 32,
        "embed_dim": 256,
        "batch": 64,
        "divide": 20,
    },
}
TASKS = ("step", "images", "texts")


QUALITY_BACKEND = "tensorflow"  # whose layers change pictures the fastest
QUALITY_GROUPS = ("torch", "text", "weights", "references")
contenders = beside.with_peer


def rows(backends, gpu):
    """The lines of the table, with what the speed rule wants."""
    fastest = 1.0 if gpu else 0.8
    parts = (beside.rows_of_task(task, backends, fastest, 1.0) for task in TASKS)
    return [line for part in parts for line in part]


def causes(label):
    """Why a row misses, as far as it is known."""
    return CAUSES.get(label)


CAUSES = {}


def build(name, case):
    """The contender of that name."""
    bench = (Peer if name == PEER else Ours)(case)
    bench.first_calls()
    return bench


class Bench(beside.Bench):
    """The model of a case, 64 pairs, and the tasks by name."""

    def __init__(self, case):
        super().__init__(case)
        import keras
        import numpy as np

        import keras_genai as kg

        self.on_backend()
        heads = case["image"]["hidden_dim"] // 64
        image = kg.clip.ImageTower(
            (case["side"], case["side"], 3),
            **case["image"],
            num_heads=heads,
            activation="quick_gelu",
            pre_norm=True,
            projection_dim=case["embed_dim"],
        )
        text = kg.clip.TextTower(
            case["vocabulary_size"],
            case["length"],
            **case["text"],
            num_heads=heads,
            activation="quick_gelu",
            eos_token_id=case["vocabulary_size"] - 1,
            projection_dim=case["embed_dim"],
        )
        self.model = kg.CLIP(image, text, case["embed_dim"])
        optimizer = keras.optimizers.AdamW(1e-4, epsilon=1e-8, global_clipnorm=1.0)
        self.model.compile(optimizer)
        draw, count = np.random.default_rng(0), case["batch"]
        shape = count, case["side"], case["side"], 3
        self.images = draw.uniform(-1, 1, shape).astype("float32")
        size = count, case["length"]
        self.tokens = draw.integers(1, case["vocabulary_size"] - 1, size)
        self.tokens[:, -1] = case["vocabulary_size"] - 1
        self.tokens = self.tokens.astype("int32")


class Ours(Bench):
    """A model of this package on the backend of this process."""

    def __init__(self, case):
        super().__init__(case)
        self.tasks = {"step": self._train, "images": self._images, "texts": self._texts}

    def _train(self, count):
        pairs = {"images": self.images, "tokens": self.tokens}
        for _ in range(count):
            logs = self.model.train_on_batch(pairs, return_dict=True)
        float(logs["loss"])

    def _images(self, count):
        for _ in range(count):
            self.model.encode_image(self.images)

    def _texts(self, count):
        for _ in range(count):
            self.model.encode_text(self.tokens)


class Peer(Bench):
    """transformers' class in the usual loop."""

    def __init__(self, case):
        super().__init__(case)
        import torch
        import transformers

        self.torch = torch
        self.versions["transformers"] = transformers.__version__
        self.peer = beside.as_peer(self.model, transformers.CLIPModel, self.place)
        images = torch.from_numpy(self.images).to(self.place)
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.tokens = torch.from_numpy(self.tokens).long().to(self.place)
        self.optimizer = torch.optim.AdamW(self.peer.parameters(), lr=1e-4)
        self.tasks = {"step": self._train, "images": self._images, "texts": self._texts}

    def _train(self, count):
        self.peer.train()
        for _ in range(count):
            loss = self.peer(
                pixel_values=self.images, input_ids=self.tokens, return_loss=True
            ).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.peer.parameters(), 1.0)
            self.optimizer.step()
        float(loss.detach())

    def _images(self, count):
        self._encode(count, self.peer.get_image_features, pixel_values=self.images)

    def _texts(self, count):
        self._encode(count, self.peer.get_text_features, input_ids=self.tokens)

    def _encode(self, count, features, **inputs):
        self.peer.eval()
        with self.torch.no_grad():
            for _ in range(count):
                made = features(**inputs)
                made = getattr(made, "pooler_output", made)
                made = self.torch.nn.functional.normalize(made, dim=-1)
                made.cpu().numpy()


if __name__ == "__main__":
    import _clip_quality

    _clip_quality.main()
