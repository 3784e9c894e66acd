"""Token stores: the sequences of one split as flat arrays."""

from dataclasses import dataclass

import numpy as np

from minitrain.base.tensors import TensorSpecs

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
