"""From corpus rows to token stores: the two texts of a row, and the check that no text is in two splits."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minitrain.batches import TokenStore
from minitrain.corpus import Example
from minitrain.errors import UserError
from minitrain.tokenizer import Tokenizer


@dataclass(frozen=True)
class SequenceTexts:
    """Two texts a row, in the order of DIRECTIONS: Spanish first, then English first. Made when they are asked for."""

    examples: Sequence[Example]

    def __iter__(self) -> Iterator[str]:
        for example in self.examples:
            yield f"es:{example.spanish} / en:{example.text}"
            yield f"en:{example.text} / es:{example.spanish}"


def make_store(
    examples: Sequence[Example],
    cells: Sequence[str],
    tokenizer: Tokenizer,
    context: int,
    place: Callable[[str], str] = str,
) -> tuple[TokenStore, int]:
    """The store of some correct rows, both directions each, and how many characters became ``<unk>``.

    A cell's id is its place in ``cells``, which are sorted. ``place`` says where its row stands. Raises
    UserError for a sequence of more than ``context`` + 1 tokens.
    """
    tokens, offsets, unknown = tokenizer.encode(SequenceTexts(examples))
    lengths = np.diff(offsets)
    longest = int(lengths.argmax())
    if lengths[longest] > context + 1:
        example = examples[longest // 2]
        text = list(SequenceTexts([example]))[longest % 2]
        raise UserError(
            f"{place(example.cell)}: expected at most {context + 1} tokens (model.context + 1), got "
            f"{lengths[longest]} for {text!r}. "
            "Shorten the row or raise model.context."
        )
    ids = np.fromiter((bisect_left(cells, example.cell) for example in examples), dtype=np.int32)
    cell = np.repeat(ids, 2)
    direction = np.tile(np.arange(2, dtype=np.uint8), len(examples))
    return TokenStore(tokens, offsets, cell, direction), unknown


def check_no_leak(examples_by_split: Mapping[str, Sequence[Example]]) -> None:
    """UserError when a text stands in two splits: what is held out would have been seen."""
    hashes = [
        np.unique(np.fromiter(map(hash, SequenceTexts(examples)), dtype=np.int64))
        for examples in examples_by_split.values()
    ]
    if sum(map(len, hashes)) == len(np.unique(np.concatenate(hashes))):
        return
    # Equal hashes: are the texts equal, and which are they?
    seen: dict[str, str] = {}
    for split, examples in examples_by_split.items():
        for text in SequenceTexts(examples):
            if seen.setdefault(text, split) != split:
                raise UserError(
                    f"the sequence {text!r} is in {seen[text]} and in {split}: two cells have the same "
                    "sentences. Remove one of the rows."
                )
