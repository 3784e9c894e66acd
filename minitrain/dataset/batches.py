"""The order of data, and batches cut into microshards.

Which sequences make up a step's batch is a pure function of (seed, position). A batch is sorted by length and
cut into microshards, each padded only to its own longest row: less padding, and parts that threads can work on.
Plainly, one rectangle for all: course/plain.py, main.
"""

import functools
from dataclasses import dataclass

import numpy as np

from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import PAD

# A token costs a fixed amount and, in attention, one in proportion to its sequence's length; at about this length the
# two are equal (measured on the locked model).
ATTENTION_COST_EQUALS = 100
DATA_STREAM = 2  # keeps the data's random numbers apart from all others of the same seed


@dataclass(frozen=True)
class Microshard:
    """Rows padded to the longest of them. B sequences, T positions."""

    tokens: np.ndarray  # (B, T) intp, what the model reads; PAD where no target follows
    targets: np.ndarray  # (B, T) intp, the next token of each position
    loss_mask: np.ndarray  # (B, T) bool, False where the target is padding

    @property
    def n_targets(self) -> int:
        return int(np.count_nonzero(self.loss_mask))


@dataclass
class DataIterator:
    """Where the next batch starts.

    Each epoch is a fresh permutation of all sequences, a pure function of (seed, epoch). A batch that
    reaches the end of an epoch takes its rest from the next one, so every sequence is seen equally often.
    """

    seed: int
    epoch: int = 0
    position: int = 0

    def next_batch(self, store: TokenStore, batch_size: int, n_shards: int) -> list[Microshard]:
        """The next ``batch_size`` sequences in at most ``n_shards`` microshards."""
        return make_microshards(store, self.next_ids(len(store), batch_size), n_shards)

    def next_ids(self, n: int, batch_size: int) -> np.ndarray:
        """The next ``batch_size`` of n sequences, int64."""
        ids = np.zeros(0, dtype=np.int64)
        while len(ids) < batch_size:
            taken = _epoch_order(n, self.seed, self.epoch)[self.position : self.position + batch_size - len(ids)]
            ids = np.concatenate([ids, taken])
            self.position += len(taken)
            if self.position == n:
                self.epoch, self.position = self.epoch + 1, 0
        return ids


@functools.lru_cache(maxsize=2)  # a batch needs the order of its epoch, and perhaps of the next
def _epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    # A sort of the generator's own numbers: NumPy keeps their stream the same for ever, but not that of `permutation`.
    return np.argsort(np.random.PCG64([seed, DATA_STREAM, epoch]).random_raw(n), kind="stable")


def make_microshards(store: TokenStore, ids: np.ndarray, n_shards: int) -> list[Microshard]:
    """Sort the sequences ``ids`` by length, longest first, and cut them into at most ``n_shards`` padded parts that
    cost about the same.
    """
    lengths = store.offsets[ids + 1] - store.offsets[ids]
    order = np.argsort(-lengths, kind="stable")
    cost = lengths[order] * (ATTENTION_COST_EQUALS + lengths[order])
    part_of = (np.cumsum(cost) - cost) * n_shards // cost.sum()
    return [pad(store, ids[order[part_of == part]]) for part in np.unique(part_of)]


def pad(store: TokenStore, ids: np.ndarray) -> Microshard:
    """The sequences ``ids``, in this order, as one microshard."""
    starts, lengths = store.offsets[ids], store.offsets[ids + 1] - store.offsets[ids]
    positions = np.arange(lengths.max())
    real = positions < lengths[:, None]  # (B, T + 1)
    rows = np.full(real.shape, PAD, dtype=np.intp)
    rows[real] = store.tokens[(starts[:, None] + positions)[real]]
    loss_mask = real[:, 1:]
    return Microshard(tokens=np.where(loss_mask, rows[:, :-1], PAD), targets=rows[:, 1:], loss_mask=loss_mask)
