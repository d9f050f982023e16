"""Keras's PyTorch trainer, with the steps of this package."""

import torch
import torch.distributed as dist

from keras_genai.backend import interface
from keras_genai.backend.devices import Devices
from keras_genai.backend.torch.core import process
from keras_genai.backend.torch.recorder import Steps
from keras_genai.utils.interrupts import stepped


class Trainer(interface.Trainer):
    """Lets Keras's PyTorch trainer run this package's steps."""

    def devices(self):
        rank, count = process()
        return Devices("processes", count, 1, (rank, count))

    def synchronize(self):
        if process()[1] > 1:
            for variable in (*self.variables, *self.optimizer.variables):
                dist.broadcast(variable.value.data, src=0)

    def is_due(self, interval, phase):
        """Whether it is known while tracing that a schedule is due."""
        steps = self.__dict__.get("_train_steps")
        return None if steps is None else steps.is_due(interval, phase)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        run = _with_step(self, super().make_train_function, "train")

        def function(data):
            return {} if self._take_skip() else run(data)

        self.train_function = stepped(function)

    def make_test_function(self, force=False):
        if self.test_function is not None and not force:
            return
        run = _with_step(self, super().make_test_function, "test")
        self.test_function = stepped(run)


def _with_step(model, make, kind):
    """Keras's own step function, made while this package's stands in the model's.

    Keras looks the step up when it is called, so it is bound here by name.
    """
    make(force=True)  # its checks (steps_per_execution), torch.compile if asked for
    step = getattr(model, f"_run_{kind}_step")
    if kind == "test":
        step = torch.no_grad()(step)
    steps = None if model.run_eagerly or model.jit_compile else Steps(model, step)
    vars(model)[f"_{kind}_steps"] = steps
    step = steps or step

    def one_step(data):
        return step(data[0])

    return torch.compile(one_step) if model.jit_compile else one_step
