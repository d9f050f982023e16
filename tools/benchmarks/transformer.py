"""GPT-2, BERT and ViT beside transformers' own: training, reading, writing.

Contenders, networks of the published sizes with the same weights:

    b              kg.GPT, kg.BERT and kg.ViT on each backend
    torch peer     transformers' classes as they come (eager, with PyTorch's own
                   attention), in the usual loop

Tasks, each where the case has it:

    step       a training step as `fit` calls it: AdamW, gradients clipped to norm 1
    forward    logits of a batch (of BERT: the hidden states), without gradients
    prefill    a long prompt is read and one token written
    decode 1, decode 8    tokens written one after the other by the most probable,
               with a cache, for one prompt and for eight
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _beside as beside
from _beside import PEER

TITLE = "GPT-2, BERT and ViT beside transformers'"
CASES = {
    "GPT-2 small, 4 x 256 tokens": {
        "model": "gpt",
        "arguments": {"dropout": 0.0},
        "batch": 4,
        "length": 256,
        "prompt": 512,
        "written": 64,
        "divide": 20,
    },
    "BERT base, 8 x 128 tokens": {
        "model": "bert",
        "arguments": {"dropout": 0.0},
        "batch": 8,
        "length": 128,
        "divide": 20,
    },
    "ViT-B/16, 8 x 224 x 224": {
        "model": "vit",
        "arguments": {"num_classes": 1000},
        "batch": 8,
        "divide": 20,
    },
}
TASKS = {
    "gpt": ("step", "prefill", "decode 1", "decode 8"),
    "bert": ("step", "forward"),
    "vit": ("step", "forward"),
}


contenders = beside.with_peer


def rows(backends, gpu):
    """The lines of the table: matrix products, which JAX too does at full speed."""
    found, most = [], 1.0 if gpu else 1.2
    for task in dict.fromkeys(task for tasks in TASKS.values() for task in tasks):
        fastest = 2 / 3 if task.startswith("decode") else 1.0
        found += beside.rows_of_task(task, backends, fastest, most)
    return found


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
    """The model of a case and what it is given."""

    def __init__(self, case):
        super().__init__(case)
        import keras
        import numpy as np

        import keras_genai as kg

        self.on_backend()
        kind, draw = case["model"], np.random.default_rng(0)
        self.model = {"gpt": kg.GPT, "bert": kg.BERT, "vit": kg.ViT}[kind](
            **case["arguments"]
        )
        optimizer = keras.optimizers.AdamW(1e-4, epsilon=1e-8, global_clipnorm=1.0)
        self.model.compile(optimizer)
        self.labels = None
        if kind == "vit":
            shape = (case["batch"], *self.model.image_shape)
            self.x = draw.uniform(-1, 1, shape).astype("float32")
            self.labels = draw.integers(0, case["arguments"]["num_classes"], shape[0])
        else:
            # Of the words: neither special tokens nor the end of a text.
            size = case["batch"], case["length"]
            self.x = draw.integers(1000, 30_000, size).astype("int32")
        if "prompt" in case:
            prompt = draw.integers(1000, 30_000, (8, case["prompt"]))
            self.prompt = prompt.astype("int32")

    def choose(self, tasks):
        self.tasks = {task: tasks[task] for task in TASKS[self.case["model"]]}


class Ours(Bench):
    """A model of this package on the backend of this process."""

    def __init__(self, case):
        super().__init__(case)
        self.choose(
            {
                "step": self._train,
                "forward": self._forward,
                "prefill": lambda count: self._write(count, self._row(512), 1),
                "decode 1": lambda count: self._write(count, self._row(32)),
                "decode 8": lambda count: self._write(count, self._rows(32)),
            }
        )

    def _row(self, length):
        return self.prompt[:1, :length]

    def _rows(self, length):
        return self.prompt[:, :length]

    def _train(self, count):
        for _ in range(count):
            logs = self.model.train_on_batch(self.x, self.labels, return_dict=True)
        float(logs["loss"])

    def _forward(self, count):
        for _ in range(count):
            self.model.predict_on_batch(self.x)

    def _write(self, count, prompt, more=None):
        for _ in range(count):
            self.model.generate(
                prompt, max_new_tokens=more or self.case["written"], temperature=0
            )


class Peer(Bench):
    """transformers' classes in the usual loop."""

    def __init__(self, case):
        super().__init__(case)
        import torch
        import transformers

        self.torch = torch
        self.versions["transformers"] = transformers.__version__
        device = self.place
        kinds = {
            "gpt": transformers.GPT2LMHeadModel,
            "bert": transformers.BertForMaskedLM,
            "vit": transformers.ViTForImageClassification,
        }
        self.peer = beside.as_peer(self.model, kinds[case["model"]], device)
        self.x = torch.from_numpy(self.x).to(device)
        if case["model"] == "vit":
            self.x = self.x.permute(0, 3, 1, 2).contiguous()
            self.inputs = {"pixel_values": self.x}
            self.labels = torch.from_numpy(self.labels).to(device)
        else:
            self.x = self.x.long()
            self.inputs, self.labels = {"input_ids": self.x}, self.x
        if case["model"] == "bert":  # 15 in a hundred are asked for
            asked = torch.rand(self.x.shape, device=device) < 0.15
            self.labels = torch.where(asked, self.x, -100)
        if "prompt" in case:
            self.prompt = torch.from_numpy(self.prompt).long().to(device)
        self.optimizer = torch.optim.AdamW(self.peer.parameters(), lr=1e-4)
        self.choose(
            {
                "step": self._train,
                "forward": self._forward,
                "prefill": lambda count: self._write(count, self.prompt[:1], 1),
                "decode 1": lambda count: self._write(count, self.prompt[:1, :32]),
                "decode 8": lambda count: self._write(count, self.prompt[:, :32]),
            }
        )

    def _train(self, count):
        self.peer.train()
        for _ in range(count):
            loss = self.peer(**self.inputs, labels=self.labels).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.peer.parameters(), 1.0)
            self.optimizer.step()
        float(loss.detach())

    def _forward(self, count):
        self.peer.eval()
        network = getattr(self.peer, "bert", self.peer)
        with self.torch.no_grad():
            for _ in range(count):
                made = network(**self.inputs)[0]
        float(made.flatten()[0])

    def _write(self, count, prompt, more=None):
        self.peer.eval()
        more = more or self.case["written"]
        for _ in range(count):
            self.peer.generate(
                prompt,
                attention_mask=self.torch.ones_like(prompt),
                max_new_tokens=more,
                min_new_tokens=more,
                do_sample=False,
                pad_token_id=0,
            )


QUALITY_BACKEND = "tensorflow"
QUALITY_GROUPS = ("torch", "weights")

if __name__ == "__main__":
    import _transformer_quality

    _transformer_quality.main()
