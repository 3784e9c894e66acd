"""How well a model predicts a store: -log p of every target, and the perplexity."""

from collections.abc import Callable

import numpy as np

from minitrain.dataset.batches import pad
from minitrain.dataset.stores import TokenStore
from minitrain.minitorch.arithmetic import exp, log, total
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT

Rounding = Callable[[np.ndarray], np.ndarray] | None


def token_nll(model: MiniGPT, store: TokenStore, rounding: Rounding = None, batch_size: int = 32) -> np.ndarray:
    """-log p of every target of a store, in nats, float64, in the order of its tokens (``<bos>`` is no target).

    Runs without dropout. ``rounding``, if given, is applied to the result of every operation.
    """
    tape, parts = Tape(recording=False, rounding=rounding), []
    for start in range(0, len(store), batch_size):
        shard = pad(store, np.arange(start, min(start + batch_size, len(store))))
        logits = model.logits(tape, shard.tokens).T.astype(np.float64)  # (V, N)
        logits -= logits.max(axis=0)
        target_logits = logits[shard.targets[shard.loss_mask], np.arange(logits.shape[1])]
        parts.append(log(total(exp(logits))) - target_logits)
    return np.concatenate(parts)


def mean(x: np.ndarray) -> float:
    """The mean of a vector."""
    return float(total(x)) / len(x)


def perplexity(nll: np.ndarray | float) -> float:
    """exp of the mean of -log p in nats."""
    return float(exp(np.array([nll if isinstance(nll, float) else mean(nll)]))[0])
