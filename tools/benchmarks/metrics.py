"""Metrics of two streams of features: this package, and NumPy with SciPy.

    python tools/benchmark.py metrics --steps 1 --repeats 1
    python tools/benchmark.py metrics --steps 1 --repeats 1 --case 10000x2048

Contenders:

    kg.metrics          the metrics as they are, fed in batches
    kg.metrics, 1,000   the same with 1,000 samples: what memory there is to begin with
    NumPy and SciPy     the published implementations' way: all features in one array;
                        for FID `numpy.cov` and `scipy.linalg.sqrtm` of the product;
                        for KID the three kernel matrices of each subset; for the
                        other two scikit-learn's whole matrices of distances and
                        `numpy.partition`, as in the authors' package prdc

A step is one whole metric: two sets of random features, drawn batch by batch, which
takes the same time on every side. Peak memory is what the process held at most above
what it held before its first step. Task "moments" is the means and covariances alone.

50,000 samples: FID, and KID by its protocol (100 subsets of 1,000), of which
`kg.metrics.KID` keeps 10,000. Precision and recall, density and coverage are measured
on the 10,000 that `kg.metrics` keeps: whole matrices of distances of 50,000 samples
take 20 GB each.
"""

from __future__ import annotations

import functools
import platform
import resource
import warnings

TITLE = "Metrics of samples with 2,048 features"
CASES = {
    "50000x2048": {
        "samples": 50_000,
        "features": 2048,
        "divide": 20,
        "tasks": ("moments", "fid", "kid"),
    },
    "10000x2048": {
        "samples": 10_000,
        "features": 2048,
        "divide": 20,
        "tasks": ("precision", "density"),
    },
}
SUBSETS, SUBSET_SIZE = 100, 1000
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
        *(
            {
                "label": f"{label} / {reference}",
                "task": task,
                "over": OWN,
                "under": REFERENCE,
                "wanted": 1.0,
            }
            for label, task, reference in (
                ("KID", "kid", "NumPy"),
                ("precision and recall", "precision", "scikit-learn"),
                ("density and coverage", "density", "scikit-learn"),
            )
        ),
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
            task: functools.partial(self.repeat, getattr(self, task))
            for task in case["tasks"]
        }

    def begin(self):
        """Notes the memory before the first step."""
        self.before = self.highest()

    def highest(self):
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def peak(self):
        return self.highest() - self.before

    def repeat(self, step, steps):
        for _ in range(steps):
            step()

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
        self.metrics = metrics
        warnings.simplefilter("ignore")  # 1,000 samples are few: the memory is meant
        self.begin()

    def fed(self, kind, **arguments):
        """A metric that has seen both sets."""
        metric = kind(lambda images: images, **arguments)
        for batch in self.batches(0):
            metric.add_real(batch)
        for batch in self.batches(1):
            metric.add_generated(batch)
        return metric

    def moments(self):
        metric = self.fed(self.metrics.FID)
        metric._real.covariance()
        metric._generated.covariance()

    def fid(self):
        return self.fed(self.metrics.FID).result()

    def kid(self):
        sizes = {"subsets": SUBSETS, "subset_size": SUBSET_SIZE}
        return self.fed(self.metrics.KID, **sizes).result()

    def precision(self):
        return self.fed(self.metrics.PrecisionRecall).result()

    def density(self):
        return self.fed(self.metrics.DensityCoverage).result()


class Reference(Bench):
    """All features in one array, as the published implementations keep them."""

    def __init__(self, case):
        super().__init__(case)
        import scipy

        self.versions["scipy"] = scipy.__version__
        self.begin()

    def rows(self, seed):
        """A whole set, float64."""
        rows = self.np.empty((self.case["samples"], self.case["features"]))
        start = 0
        for batch in self.batches(seed):
            rows[start : start + len(batch)] = batch
            start += len(batch)
        return rows

    def moments(self):
        moments = []
        for seed in (0, 1):
            rows = self.rows(seed)
            moments.append((rows.mean(0), self.np.cov(rows, rowvar=False)))
        return moments

    def fid(self):
        import scipy.linalg

        np = self.np
        (m1, c1), (m2, c2) = self.moments()
        root = scipy.linalg.sqrtm(c1 @ c2)
        return float(np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2.0 * root.real))

    def kid(self):
        np, rng = self.np, self.np.random.default_rng(0)
        sets, n = [self.rows(seed) for seed in (0, 1)], SUBSET_SIZE
        values = []
        for _ in range(SUBSETS):
            x, y = (rows[rng.choice(len(rows), n, replace=False)] for rows in sets)
            xx, yy, xy = (
                (a @ b.T / a.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y))
            )
            within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
            values.append(within / (n * (n - 1)) - 2.0 * xy.mean())
        return float(np.mean(values)), float(np.std(values))

    def distances(self, k, sets):
        """Of real to generated samples, and the radii of the first or both sets."""
        from sklearn.metrics import pairwise_distances

        real, generated = self.rows(0), self.rows(1)
        radii = [
            self.np.partition(pairwise_distances(rows), k, axis=1)[:, k]
            for rows in (real, generated)[:sets]
        ]
        return pairwise_distances(real, generated), *radii

    def precision(self):
        between, real, generated = self.distances(3, 2)
        precise = (between <= real[:, None]).any(0).mean()
        return float(precise), float((between <= generated).any(1).mean())

    def density(self):
        between, real = self.distances(5, 1)
        inside = between < real[:, None]
        covered = (between.min(1) < real).mean()
        return float(inside.sum(0).mean() / 5), float(covered)


def build(name, case):
    """The contender of that name."""
    if name == REFERENCE:
        return Reference(case)
    if name == FEW:
        case = {**case, "samples": 1000, "tasks": {"fid"} & set(case["tasks"])}
    return Own(case)
