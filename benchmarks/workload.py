"""What all contenders train: one configuration, one start, one sequence of batches.

A workload is a file, so that processes which share nothing else begin with the same numbers.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitrain.base import files, formats, tensors
from minitrain.dataset.batches import DataIterator, pad
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS, EOS, PAD
from minitrain.model import MiniGPT
from minitrain.params import ModelConfig, TrainConfig
from minitrain.training.state import initial_state


class Batch(NamedTuple):
    """Padded rows, as every peer takes them: (B, T) int64; the target of a pad is PAD."""

    tokens: np.ndarray
    targets: np.ndarray


class Contender(NamedTuple):
    """One way to train."""

    step: Callable[[], float]  # the next batch, to updated weights; the loss
    loss_and_grads: Callable[[], tuple[float, dict[str, np.ndarray]]]  # of the first batch, without dropout


@dataclass(frozen=True)
class Work:
    """A model, how it is trained, on what, and from where."""

    model: ModelConfig
    train: TrainConfig
    store: TokenStore
    weights: np.ndarray  # flat, float32

    def named_weights(self) -> dict[str, np.ndarray]:
        """The initial weights by name."""
        return MiniGPT(self.model).views(self.weights)

    def batches(self) -> Iterator[Batch]:
        """Batches without end, in the order in which minitrain.loop takes them, each padded to its longest row."""
        data = DataIterator(self.train.seed)
        while True:
            shard = pad(self.store, data.next_ids(len(self.store), self.train.batch_size))
            yield Batch(shard.tokens, shard.targets)

    def padded_batches(self) -> Iterator[Batch]:
        """The same, each padded to the context: one shape, so that what is compiled is compiled once."""
        for batch in self.batches():
            pads = ((0, 0), (0, self.model.context - batch.tokens.shape[1]))
            yield Batch(*(np.pad(array, pads, constant_values=PAD) for array in batch))

    def real_tokens(self, n: int) -> int:
        """How many of the tokens in the first n batches are not padding."""
        return sum(int(np.count_nonzero(batch.targets)) for batch in itertools.islice(self.batches(), n))

    def save(self, path: Path) -> None:
        """Write everything to two files, ``path`` and a JSON file beside it."""
        files.write_bytes(path, tensors.encode_tensors({**self.store.arrays(), "weights": self.weights}))
        config = {"model": asdict(self.model), "train": asdict(self.train)}
        files.write_bytes(path.with_suffix(".json"), formats.json_bytes(config))

    @classmethod
    def load(cls, path: Path) -> "Work":
        """What ``save`` wrote."""
        config = formats.read_json(path.with_suffix(".json"))
        arrays = tensors.decode_tensors(files.read_bytes(path), str(path))
        weights = arrays.pop("weights")
        return cls(ModelConfig(**config["model"]), TrainConfig(**config["train"]), TokenStore(**arrays), weights)


def make_work(model: ModelConfig, train: TrainConfig, store: TokenStore) -> Work:
    """A workload with the weights that minitrain would begin with."""
    return Work(model, train, store, initial_state(model, train).model.weights)


def random_store(n: int, length: int, vocab_size: int) -> TokenStore:
    """n sequences of random tokens, all of one length: nothing is padding."""
    tokens = np.random.Generator(np.random.PCG64(0)).integers(4, vocab_size, size=(n, length)).astype(np.uint16)
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    return TokenStore(
        tokens.reshape(-1), np.arange(n + 1) * length, np.arange(n, dtype=np.int32), np.zeros(n, np.uint8)
    )
