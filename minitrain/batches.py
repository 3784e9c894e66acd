"""Token stores, the order of data, and batches cut into microshards.

A store holds the sequences of one split as flat arrays. Which of them make up a step's batch is a pure
function of (seed, position). A batch is sorted by length and cut into microshards, each padded only to
its own longest row: less padding, and parts that threads can work on.
"""

import functools
from dataclasses import dataclass

import numpy as np

from minitrain.errors import UserError
from minitrain.tokenizer import PAD

SPLITS = ("train", "val", "test")
DIRECTIONS = ("es-en", "en-es")
# A token costs a fixed amount and, in attention, one in proportion to its sequence's length; at about this length the
# two are equal (measured on the locked model).
ATTENTION_COST_EQUALS = 100
DATA_STREAM = 2  # keeps the data's random numbers apart from all others of the same seed

# dtype and shape of each array of a store's file
STORE_LAYOUT: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "tokens": ("uint16", (None,)),
    "offsets": ("int64", (None,)),
    "cell": ("int32", (None,)),
    "direction": ("uint8", (None,)),
}


@dataclass(frozen=True)
class TokenStore:
    """The n sequences of a split: sequence i is ``tokens[offsets[i]:offsets[i+1]]``, ``<bos>`` and ``<eos>``
    included.
    """

    tokens: np.ndarray  # uint16, flat
    offsets: np.ndarray  # int64, n + 1
    cell: np.ndarray  # int32, n: index into cells.json
    direction: np.ndarray  # uint8, n: index into DIRECTIONS

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64."""
        return np.diff(self.offsets)

    def lengths_of(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of some sequences, int64."""
        lengths: np.ndarray = self.offsets[ids + 1] - self.offsets[ids]
        return lengths

    def arrays(self) -> dict[str, np.ndarray]:
        """The store as its file has it."""
        return {"tokens": self.tokens, "offsets": self.offsets, "cell": self.cell, "direction": self.direction}

    def check(self, name: str, vocab_size: int, context: int) -> None:
        """UserError, naming ``name``, unless the arrays fit together, the vocabulary and the context."""
        n = len(self.cell)
        if (
            n == 0
            or self.offsets.shape != (n + 1,)
            or self.direction.shape != (n,)
            or self.offsets[0] != 0
            or self.offsets[-1] != len(self.tokens)
        ):
            raise UserError(
                f"{name}: expected offsets, cell and direction of the same {n} > 0 sequences. Make it again "
                "with shard-to-batches."
            )
        if self.lengths.min() < 2 or self.lengths.max() > context + 1:
            raise UserError(
                f"{name}: expected sequences of 2 to {context + 1} tokens (model.context + 1), got "
                f"{self.lengths.min()} to {self.lengths.max()}."
            )
        if not PAD < self.tokens.min() <= self.tokens.max() < vocab_size or self.direction.max() >= len(DIRECTIONS):
            raise UserError(
                f"{name}: expected token ids above {PAD} (<pad>) and below {vocab_size}, and directions below "
                f"{len(DIRECTIONS)}, got other ones."
            )


@dataclass(frozen=True)
class Microshard:
    """Rows padded to the longest of them. B sequences, T positions."""

    tokens: np.ndarray  # (B, T) intp, what the model reads; PAD where no target follows
    targets: np.ndarray  # (B, T) intp, the next token of each position
    loss_mask: np.ndarray  # (B, T) bool, False where the target is padding

    @property
    def n_targets(self) -> int:
        return int(np.count_nonzero(self.loss_mask))


def batch_ids(n: int, seed: int, epoch: int, position: int, batch_size: int) -> tuple[np.ndarray, int, int]:
    """The sequences of the batch that starts at ``position`` of ``epoch``, and where the next one starts.

    Each epoch is a fresh permutation of all n sequences, a pure function of (seed, epoch). A batch that
    reaches the end of an epoch takes its rest from the next one, so every sequence is seen equally often.
    """
    ids = np.zeros(0, dtype=np.int64)
    while len(ids) < batch_size:
        taken = _epoch_order(n, seed, epoch)[position : position + batch_size - len(ids)]
        ids = np.concatenate([ids, taken])
        position += len(taken)
        if position == n:
            epoch, position = epoch + 1, 0
    return ids, epoch, position


@functools.lru_cache(maxsize=2)  # a batch needs the order of its epoch, and perhaps of the next
def _epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.PCG64([seed, DATA_STREAM, epoch])).permutation(n)
    order.setflags(write=False)
    return order


def make_microshards(store: TokenStore, ids: np.ndarray, n_shards: int) -> list[Microshard]:
    """Sort the sequences ``ids`` by length, longest first, and cut them into at most ``n_shards`` padded parts that
    cost about the same.
    """
    lengths = store.lengths_of(ids)
    order = np.argsort(-lengths, kind="stable")
    cost = lengths[order] * (ATTENTION_COST_EQUALS + lengths[order])
    part_of = (np.cumsum(cost) - cost) * n_shards // cost.sum()
    return [pad(store, ids[order[part_of == part]]) for part in np.unique(part_of)]


def pad(store: TokenStore, ids: np.ndarray) -> Microshard:
    """The sequences ``ids``, in this order, as one microshard."""
    starts, lengths = store.offsets[ids], store.lengths_of(ids)
    positions = np.arange(lengths.max())
    real = positions < lengths[:, None]  # (B, T + 1)
    rows = np.full(real.shape, PAD, dtype=np.intp)
    rows[real] = store.tokens[(starts[:, None] + positions)[real]]
    loss_mask = real[:, 1:]
    return Microshard(tokens=np.where(loss_mask, rows[:, :-1], PAD), targets=rows[:, 1:], loss_mask=loss_mask)
