"""The learning rate of an optimizer's present update."""

import keras


def current_rate(optimizer):
    """The learning rate of the present update: a schedule's, by the updates so far."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate(optimizer.iterations)
    return type(optimizer)._get_current_learning_rate(optimizer)
