"""AdamW and gradient clipping over flat vectors."""

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
        return cls(np.zeros_like(weights), np.zeros_like(weights), 0)


def clip_by_global_norm(grads: np.ndarray, max_norm: float) -> float:
    """Scale ``grads`` down, in place, to a Euclidean norm of at most ``max_norm``; returns the norm before."""
    norm = float(np.sqrt(np.dot(grads, grads)))
    if norm > max_norm:
        grads *= grads.dtype.type(max_norm / norm)
    return norm


def adamw_step(
    weights: np.ndarray, grads: np.ndarray, state: AdamWState, lr: float, betas: tuple[float, float], eps: float, decay: np.ndarray
) -> None:
    """One step of AdamW (Loshchilov & Hutter 2019, algorithm 2), in place on ``weights`` and ``state``.

    ``decay`` is the weight decay of each number: a flat vector like the others, 0 where nothing decays.
    """
    real = weights.dtype.type
    beta1, beta2 = betas
    state.t += 1
    state.m *= real(beta1)
    state.m += grads * real(1 - beta1)
    state.v *= real(beta2)
    state.v += np.square(grads) * real(1 - beta2)
    # The bias corrections 1 - beta^t, taken out of the vectors: m_hat / (sqrt(v_hat) + eps).
    update = np.sqrt(state.v)
    update *= real(1 / np.sqrt(1 - beta2**state.t))
    update += real(eps)
    np.divide(state.m, update, out=update)
    update *= real(1 / (1 - beta1**state.t))
    update += decay * weights
    update *= real(lr)
    weights -= update
