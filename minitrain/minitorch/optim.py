"""AdamW and gradient clipping over flat vectors."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class AdamWState:
    """First and second moment of each gradient (flat), and the number of steps taken."""

    m: np.ndarray
    v: np.ndarray
    t: int

    @classmethod
    def zeros_like(cls, weights: np.ndarray) -> "AdamWState":
        """The state before the first step."""
        return cls(np.zeros_like(weights), np.zeros_like(weights), 0)


def clip_by_global_norm(grads: np.ndarray, max_norm: float) -> float:
    """Scale ``grads`` down, in place, to a Euclidean norm of at most ``max_norm``; returns the norm before."""
    norm = float(np.sqrt(np.dot(grads, grads)))
    if max_norm < norm < math.inf:  # an infinite norm is the caller's to notice
        grads *= grads.dtype.type(max_norm / norm)
    return norm


def adamw_step(
    weights: np.ndarray,
    grads: np.ndarray,
    state: AdamWState,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """One step of AdamW (Loshchilov & Hutter 2019, algorithm 2), in place on ``weights`` and ``state``.

    ``decay`` is the weight decay of each number: a flat vector like the others, 0 where nothing decays.
    ``scratch`` is another such vector, whose content is lost.
    """
    real = weights.dtype.type
    beta1, beta2 = betas
    state.t += 1
    state.m *= real(beta1)
    state.m += np.multiply(grads, real(1 - beta1), out=scratch)
    state.v *= real(beta2)
    np.multiply(grads, grads, out=scratch)
    state.v += np.multiply(scratch, real(1 - beta2), out=scratch)
    # Decay is decoupled from the gradient: weights *= 1 - lr * decay.
    np.multiply(decay, weights, out=scratch)
    weights -= np.multiply(scratch, real(lr), out=scratch)
    # lr * m_hat / (sqrt(v_hat) + eps), with lr and the bias corrections 1 - beta^t taken out of the vectors.
    rate = lr / (1 - beta1**state.t)
    scaled = np.sqrt(state.v, out=scratch)  # will be (sqrt(v_hat) + eps) / rate
    scaled *= real(1 / (rate * math.sqrt(1 - beta2**state.t)))
    scaled += real(eps / rate)
    weights -= np.divide(state.m, scaled, out=scaled)
