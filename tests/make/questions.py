"""The layers of the two public questions that the README answers."""

from __future__ import annotations

import numpy as np

from exporter import BatchNorm


def layer_of(path="bn", *, gamma, beta, mean, variance, epsilon=0.001, ndim=None):
    def array(values):
        return None if values is None else np.array(values, np.float32)

    return BatchNorm(path=path, name=path, class_name="BatchNormalization", axis=(-1,), shape=(len(mean),), ndim=ndim, dtype="float32",
                     epsilon=epsilon, momentum=0.99, gamma=array(gamma), beta=array(beta), moving_mean=array(mean),
                     moving_variance=array(variance))


EPSILON_QUESTION = layer_of(gamma=[1.0055743], beta=[-0.016652612], mean=[-0.089603029], variance=[0.000436493])
BATCH_QUESTION = layer_of(gamma=[0.80644524], beta=None, mean=[0.05885344], variance=[0.91000736], ndim=4)
