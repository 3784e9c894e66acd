"""Token stores: the sequences of one split as flat arrays."""

from dataclasses import dataclass

import numpy as np

from minitrain.base.errors import UserError
from minitrain.base.tensors import TensorSpecs
from minitrain.params import ModelConfig

SPLITS = ("train", "val", "test")
DIRECTIONS = ("es-en", "en-es")

# dtype and shape of each array of a store's file
STORE_SPECS: TensorSpecs = {
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

    def sequences(self) -> list[np.ndarray]:
        """The tokens of each sequence."""
        return np.split(self.tokens, self.offsets[1:-1])

    def arrays(self) -> dict[str, np.ndarray]:
        """The store as its file has it."""
        return {"tokens": self.tokens, "offsets": self.offsets, "cell": self.cell, "direction": self.direction}

    def check(self, name: str, config: ModelConfig) -> None:
        """UserError, naming ``name``, unless its sequences and tokens fit the model."""
        longest, largest = int(self.lengths.max(initial=0)), int(self.tokens.max(initial=0))
        if longest > config.context + 1 or largest >= config.vocab_size:
            raise UserError(
                f"{name}: expected sequences of at most {config.context + 1} tokens (model.context + 1), each below "
                f"{config.vocab_size} (model.vocab_size), got {longest} and {largest}. Make it again with: dvc repro "
                "shard-to-batches"
            )
