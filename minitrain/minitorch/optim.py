"""The optimizer and gradient clipping, over flat vectors. An optimizer is a dataclass whose fields are its state."""

import math
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np

from minitrain.minitorch.arithmetic import power, total


@np.errstate(over="ignore", invalid="ignore")
def clip_by_global_norm(grads: np.ndarray, max_norm: float) -> float:
    """Scale ``grads`` down, in place, to a Euclidean norm of at most ``max_norm``; returns the norm before (Pascanu et
    al. 2013, algorithm 1).
    """
    norm = float(np.sqrt(total(grads * grads)))
    if max_norm < norm < math.inf:  # an infinite norm is the caller's to notice
        grads *= grads.dtype.type(max_norm / norm)
    return norm


@dataclass
class AdamW:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

    m: np.ndarray  # first moment of each gradient, flat
    v: np.ndarray  # second moment
    t: int  # steps taken
    config: InitVar[Any]  # with beta1, beta2 and eps
    decay: InitVar[np.ndarray]  # weight decay of each number, flat

    def __post_init__(self, config: Any, decay: np.ndarray) -> None:
        self._beta1, self._beta2, self._eps, self._decay = config.beta1, config.beta2, config.eps, decay

    def update(self, weights: np.ndarray, grads: np.ndarray, lr: float) -> None:
        """Take one step, in place on ``weights`` (flat, as ``grads``)."""
        dtype = weights.dtype.type
        self.t += 1
        self.m *= dtype(self._beta1)
        self.m += grads * dtype(1 - self._beta1)
        self.v *= dtype(self._beta2)
        self.v += grads * grads * dtype(1 - self._beta2)
        # Decay is decoupled from the gradient: weights *= 1 - lr * decay.
        weights -= self._decay * weights * dtype(lr)
        # lr * m_hat / (sqrt(v_hat) + eps), with lr and the bias corrections 1 - beta^t taken out of the vectors (Kingma
        # & Ba 2015, section 2): fewer passes over them. Plainly: course/plain.py, adamw.
        rate = lr / (1 - power(self._beta1, self.t))
        scaled = np.sqrt(self.v)  # will be (sqrt(v_hat) + eps) / rate
        scaled *= dtype(1 / (rate * math.sqrt(1 - power(self._beta2, self.t))))
        scaled += dtype(self._eps / rate)
        weights -= self.m / scaled


Optimizer = AdamW  # with a second kind: the union of both


def new_optimizer(config: Any, weights: np.ndarray, is_matrix: np.ndarray) -> Optimizer:
    """The optimizer before the first step. A second kind would be chosen here, by a parameter.

    ``config`` is the section ``train`` of the parameters; ``is_matrix`` is 1 for the numbers of 2-D parameters and 0
    for others, flat: there is no decay on biases and gains.
    """
    decay = is_matrix * weights.dtype.type(config.weight_decay)
    return AdamW(np.zeros_like(weights), np.zeros_like(weights), 0, config, decay)
