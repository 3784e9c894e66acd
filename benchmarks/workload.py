"""What all contenders train: one configuration, one start, one sequence of batches.

A workload is kept in files, so that processes which share nothing else begin with the same numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitrain.base import files, formats, tensors
from minitrain.dataset.batches import DataIterator, pad
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import PAD
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
    loss_and_grads: Callable[
        [], dict[str, np.ndarray]
    ]  # of the first batch, without dropout: "loss", gradients by name


@dataclass(frozen=True)
class Work:
    """A model, how it is trained, and on what. Where it begins follows: at minitrain's initial weights."""

    model: ModelConfig
    train: TrainConfig
    store: TokenStore

    @property
    def weights(self) -> np.ndarray:
        """The initial weights, flat, float32."""
        return initial_state(self.model, self.train).model.weights

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

    def save(self, folder: Path) -> None:
        """Write everything to two files in ``folder``."""
        files.write_bytes(folder / "work.safetensors", tensors.encode_tensors(vars(self.store)))
        files.write_bytes(
            folder / "work.json", formats.json_bytes({"model": asdict(self.model), "train": asdict(self.train)})
        )

    @classmethod
    def load(cls, folder: Path) -> "Work":
        """What ``save`` wrote."""
        config = formats.read_json(folder / "work.json")
        arrays = tensors.decode_tensors(files.read_bytes(folder / "work.safetensors"), "work.safetensors")
        return cls(ModelConfig(**config["model"]), TrainConfig(**config["train"]), TokenStore(**arrays))
