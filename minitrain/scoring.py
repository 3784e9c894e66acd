"""How well a model predicts a store: -log p of every target, and the perplexity."""

from collections.abc import Callable

import numpy as np

from minitrain.dataset.batches import pad
from minitrain.dataset.stores import TokenStore
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
        logits = model.logits(tape, shard.tokens).astype(np.float64)  # (N, V)
        logits -= logits.max(axis=1, keepdims=True)
        target_logits = logits[np.arange(len(logits)), shard.targets[shard.loss_mask]]
        parts.append(np.log(np.exp(logits).sum(axis=1)) - target_logits)
    return np.concatenate(parts)


@np.errstate(over="ignore")
def perplexity(nll: np.ndarray | float) -> float:
    """exp of the mean of -log p in nats; infinite where that overflows."""
    return float(np.exp(np.mean(nll)))
