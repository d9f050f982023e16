"""`Sampler`: any sampler that is linear between the calls of the denoiser.

The state is a few arrays of the shape of x, the first of which is x. Evaluation i is

    y    = P_i (state, z)                   where the network is asked, at times[i]
    D    = denoise(y, times[i])
    state = M_i (state, y, D, z)

with z standard normal and P_i, M_i factors. `tabulate` finds the factors by running
the sampler's formulas on unit vectors.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.backend import programs
from keras_genai.backend.threefry import concrete
from keras_genai.diffusion.denoiser import split
from keras_genai.diffusion.variance import log_variance

_TABLES = ("times", "inputs", "updates", "log_variances")


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler on a time grid: a pure function `(denoise, x, noise) -> x`.

    Args:
        name: of the sampler.
        times: `(n,)`, the time of each evaluation of the denoiser.
        inputs: `(n, R + 1)`, the factors P on the R arrays of the state and z.
        updates: `(n, R, R + 3)`, the factors M on the state, y, D and z.
        log_variances: `(n, 2)`, the bounds between which a learned variance lies; then
            the standard deviation it gives stands in for the factor of z. None where
            the factor is known.
        nodes: `(n,)`, the node of the grid that x is at after each evaluation; -1 where
            it lies between two.
        given: of `bound`: dict of the tables as tensors, filled up, and of their
            `count` of rows.

    Attributes:
        evaluations: how often the denoiser is called.
        stochastic: whether noise is drawn.
    """

    name: str
    times: np.ndarray
    inputs: np.ndarray
    updates: np.ndarray
    nodes: np.ndarray
    log_variances: np.ndarray | None = None
    given: dict | None = None

    @property
    def evaluations(self):
        return len(self.times)

    @property
    def stochastic(self):
        return bool(np.any(self.inputs[:, -1]) or np.any(self.updates[:, :, -1]))

    def tables(self):
        """The numbers of which `bound` makes inputs: see `backend.programs.filled`."""
        tables = {name: getattr(self, name) for name in _TABLES}
        return programs.filled({k: x for k, x in tables.items() if x is not None})

    @property
    def form(self):
        """Hashable: what is left without the numbers, which is what is compiled.

        Nor is their number in it, which the shapes of `tables()` tell nearly enough.
        """
        patterns = tuple(
            f(table).tobytes()
            for table in (self.inputs, self.updates)
            for f in (lambda x: np.any(x, axis=0), lambda x: np.all(x == 1, axis=0))
        )
        learned = self.log_variances is not None
        size = self.updates.shape[1:]
        return self.name, size, learned, self.stochastic, patterns

    @property
    def key(self):
        """Hashable: the sampler with its numbers."""
        tables = [getattr(self, name) for name in _TABLES]
        return self.form, tuple([x if x is None else x.tobytes() for x in tables])

    def bound(self, tables):
        """The sampler with its numbers, or those of another of its `form`, as tensors.

        Args:
            tables: dict like `tables()`, of tensors.
        """
        return dataclasses.replace(self, given=tables)

    def begin(self, x):
        """The state at the first node."""
        x = ops.convert_to_tensor(x)
        return (x, *(ops.zeros_like(x) for _ in range(self.updates.shape[1] - 1)))

    def step(self, denoise, i, state, noise=None):
        """One evaluation: a pure function, of which one compiled form serves every i.

        Args:
            denoise: function `(x, t) -> x_0`, t a scalar.
            i: its number, an integer or int32 scalar tensor.
            state: of `begin` or of the last step.
            noise: function `(i, x)` to standard normal noise like x; needed where
                `stochastic`.

        Returns:
            The next state, whose first array is x.
        """
        x, i = state[0], concrete(i)
        z = self._draw(noise, i, x)

        def row(name):
            table = getattr(self, name)
            if isinstance(i, int) and self.given is None:
                return table[i].tolist()  # eager: numbers cost no copies to a device
            # Of rows: PyTorch does not export a lookup of single numbers.
            rows = table if self.given is None else self.given[name]
            rows = ops.reshape(ops.cast(rows, x.dtype), (rows.shape[0], -1))
            return ops.reshape(ops.take(rows, i, axis=0), table.shape[1:])

        y = _combine(self.inputs, row("inputs"), (*state, z))
        t = ops.convert_to_tensor(row("times"), dtype=x.dtype)
        x_0, v = split(denoise(y, t))
        z = self._scaled(z, v, row)
        rows, operands = row("updates"), (*state, y, x_0, z)
        return tuple(
            _combine(self.updates[:, r], rows[r], operands) for r in range(len(state))
        )

    def _draw(self, noise, i, x):
        if not self.stochastic:
            return None
        if noise is None:
            raise ValueError(
                f"The sampler {self.name} adds noise at its steps: give noise=, a "
                "function (i, x), such as kg.samplers.keyed_noise(key)."
            )
        return ops.cast(noise(i, x), x.dtype)

    def _scaled(self, z, v, row):
        """z times the learned standard deviation."""
        if self.log_variances is None:
            return z
        if v is None:
            raise ValueError(
                "variance='learned' needs a denoiser with a learned variance, which "
                "returns (x_0, v): Denoiser(..., learned_variance=True)."
            )
        bounds = row("log_variances")
        return ops.exp(0.5 * log_variance(v, bounds[0], bounds[1])) * z

    def __call__(self, denoise, x, noise=None, after=None):
        """From the first node of the grid to its last, in a loop in the graph.

        Args:
            denoise, noise: see `step`.
            x: samples `(B, ...)` at the first node; see `TimeGrid.start`.
            after: function `(i, x) -> x` that changes x after evaluation i (at node
                `nodes[i]`), to hold a part of it, say.

        Returns:
            Samples `(B, ...)` at the last node.
        """

        def body(i, state):
            state = self.step(denoise, i, state, noise)
            if after is not None:
                state = (after(i, state[0]), *state[1:])
            return state

        count = self.evaluations if self.given is None else self.given["count"]
        return ops.fori_loop(0, count, body, self.begin(x))[0]


def _combine(table, factors, operands):
    """`sum_c factors[c] operands[c]`, without what is always 0 and products with 1.

    Args:
        table: `(n, C)` NumPy: the factors at every evaluation.
        factors: `(C,)` tensor: at this one.
        operands: C arrays of one shape; None only where the table is 0.
    """
    total = None
    for column, operand in enumerate(operands):
        if not np.any(table[:, column]):
            continue
        factor = factors[column]
        if isinstance(factor, float) and factor == 0:
            continue
        term = operand if np.all(table[:, column] == 1) else factor * operand
        total = term if total is None else total + term
    return ops.zeros_like(operands[0]) if total is None else total


def tabulate(name, times, update, registers=1, inputs=None, nodes=None, variances=None):
    """The `Sampler` of formulas.

    Args:
        name: of the sampler.
        times: `(n,)` times of the evaluations.
        update: function `(i, state, y, D, z)` to the new state, a tuple of `registers`
            sums. It is called with unit vectors: what it adds up are the factors.
        registers: number R of arrays in the state.
        inputs: function `(i, state, z)` to y; x itself by default.
        nodes: of the `Sampler`; node i + 1 after evaluation i by default.
        variances: `log_variances` of the `Sampler`.
    """
    count = len(times)
    unit = np.eye(registers + 3)
    state, (y, denoised, z) = tuple(unit[:registers]), unit[registers:]
    asked, updates = [], []
    with np.errstate(all="ignore"):
        for i in range(count):
            row = state[0] if inputs is None else inputs(i, state, z)
            asked.append(np.append(row[:registers], row[-1]))
            updates.append(np.stack(update(i, state, y, denoised, z)))
    table, rows = np.stack(updates), np.stack(asked)
    if not (np.all(np.isfinite(table)) and np.all(np.isfinite(rows))):
        raise ValueError(
            f"The sampler {name} cannot step from a node where nothing of the data is "
            "left (alpha = 0) or where there is no noise: its formulas divide by it. "
            "'ddim', 'dpmpp_2m', 'unipc' and 'flow_heun' begin at alpha = 0, none at "
            "sigma = 0; or begin at another time."
        )
    nodes = np.arange(1, count + 1) if nodes is None else np.asarray(nodes)
    return Sampler(name, np.asarray(times), rows, table, nodes, variances)
