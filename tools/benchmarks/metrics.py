"""FID of two streams of features: this package, and NumPy with SciPy.

    python tools/benchmark.py metrics --steps 1 --repeats 1

Contenders:

    kg.metrics          `FID`'s running moments and its distance, fed in batches
    kg.metrics, 1,000   the same with 1,000 samples: what memory there is to begin with
    NumPy and SciPy     the published implementations' way: all features in one array,
                        `numpy.cov`, `scipy.linalg.sqrtm` of the product

A step is one whole FID: two sets of random features, drawn batch by batch, which takes
the same time on every side. Peak memory is what the process holds above what it held
before its first step. Task "moments" is the means and covariances alone.
"""

from __future__ import annotations

import platform
import resource
import warnings

TITLE = "FID of 50,000 samples with 2,048 features"
CASES = {"50000x2048": {"samples": 50_000, "features": 2048, "divide": 20}}
BATCH = 250
OWN, FEW, REFERENCE = "kg.metrics", "kg.metrics, 1,000", "NumPy and SciPy"


def contenders(backends):
    """Name -> environment variables. The sums are NumPy's, whatever the backend."""
    own = {"KERAS_BACKEND": backends[0]}
    return {OWN: own, FEW: own, REFERENCE: {}}


def rows(backends, gpu):
    """The lines of the table; the second's memory ratio says whether it is flat."""
    return [
        {
            "label": "FID / NumPy and SciPy",
            "task": "fid",
            "over": OWN,
            "under": REFERENCE,
            "wanted": 1.0,
        },
        {
            "label": "means and covariances / NumPy",
            "task": "moments",
            "over": OWN,
            "under": REFERENCE,
            "wanted": None,
        },
        {
            "label": "50,000 / 1,000 samples (memory)",
            "task": "fid",
            "over": OWN,
            "under": FEW,
            "wanted": None,
        },
    ]


CAUSES = {}


def causes(label):
    """Why a row misses, as far as it is known."""
    return CAUSES.get(label)


class Bench:
    """What a worker serves: see `tools/benchmark.py`."""

    device = "cpu"
    compile_seconds = None

    def __init__(self, case):
        import numpy as np

        self.case, self.np = case, np
        self.versions = {"numpy": np.__version__}
        self.tasks = {
            "moments": lambda steps: self.repeat(steps, False),
            "fid": lambda steps: self.repeat(steps, True),
        }

    def begin(self):
        """Notes the memory before the first step."""
        self.before = self.highest()

    def highest(self):
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def peak(self):
        return self.highest() - self.before

    def repeat(self, steps, whole):
        for _ in range(steps):
            self.step(whole)

    def batches(self, seed):
        """A set of features, float32, as an extractor hands them on."""
        rng = self.np.random.default_rng(seed)
        left = self.case["samples"]
        while left:
            size = min(BATCH, left)
            drawn = rng.standard_normal((size, self.case["features"]), "float32")
            drawn += 0.01 * seed
            yield drawn
            left -= size


class Own(Bench):
    """This package."""

    def __init__(self, case):
        super().__init__(case)
        import keras

        from keras_genai import metrics

        self.versions["keras"] = keras.__version__
        self.metric = metrics.FID(lambda images: images)
        self.begin()

    def step(self, whole):
        warnings.simplefilter("ignore")  # 1,000 samples are few: the memory is meant
        self.metric.reset_state()
        for batch in self.batches(0):
            self.metric.add_real(batch)
        for batch in self.batches(1):
            self.metric.add_generated(batch)
        if whole:
            self.metric.result()
        else:
            self.metric._real.covariance()
            self.metric._generated.covariance()


class Reference(Bench):
    """All features in one array, as the published implementations keep them."""

    def __init__(self, case):
        super().__init__(case)
        import scipy

        self.versions["scipy"] = scipy.__version__
        self.begin()

    def step(self, whole):
        import scipy.linalg

        np = self.np
        moments = []
        for seed in (0, 1):
            rows = np.empty((self.case["samples"], self.case["features"]))
            start = 0
            for batch in self.batches(seed):
                rows[start : start + len(batch)] = batch
                start += len(batch)
            moments.append((rows.mean(0), np.cov(rows, rowvar=False)))
        if whole:
            (m1, c1), (m2, c2) = moments
            root = scipy.linalg.sqrtm(c1 @ c2)
            float(np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2.0 * root.real))


def build(name, case):
    """The contender of that name."""
    if name == REFERENCE:
        return Reference(case)
    return Own({**case, "samples": 1000} if name == FEW else case)
