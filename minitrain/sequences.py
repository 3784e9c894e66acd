"""From corpus rows to token stores: the two texts of a row, and the check that no text is in two splits."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minitrain.batches import TokenStore
from minitrain.corpus import Row
from minitrain.errors import UserError
from minitrain.tokenizer import Tokenizer


def sequence_texts(rows: Iterable[Row]) -> list[str]:
    """Two texts a row, in the order of DIRECTIONS: Spanish first, then English first."""
    return [text for row in rows for text in (f"es:{row.spanish} / en:{row.text}", f"en:{row.text} / es:{row.spanish}")]


def make_store(
    rows: Sequence[Row], cell_ids: dict[str, int], tokenizer: Tokenizer, context: int, place: Callable[[str], str] = str
) -> tuple[TokenStore, int]:
    """The store of some correct rows, both directions each, and how many characters became ``<unk>``.

    ``place`` says where a row stands, given its id. Raises UserError for a sequence of more than
    ``context`` + 1 tokens.
    """
    texts = sequence_texts(rows)
    tokens, offsets, unknown = tokenizer.encode(texts)
    lengths = np.diff(offsets)
    longest = int(lengths.argmax())
    if lengths[longest] > context + 1:
        raise UserError(
            f"{place(rows[longest // 2].id)}: expected at most {context + 1} tokens (model.context + 1), got "
            f"{lengths[longest]} for {texts[longest]!r}. "
            "Shorten the row or raise model.context."
        )
    cell = np.repeat(np.array([cell_ids[row.cell] for row in rows], dtype=np.int32), 2)
    direction = np.tile(np.arange(2, dtype=np.uint8), len(rows))
    return TokenStore(tokens, offsets, cell, direction), unknown


def check_no_leak(texts_by_split: dict[str, list[str]]) -> None:
    """UserError when a text stands in two splits: what is held out would have been seen."""
    seen: dict[str, str] = {}
    for split, texts in texts_by_split.items():
        for text in texts:
            if seen.setdefault(text, split) != split:
                raise UserError(
                    f"the sequence {text!r} is in {seen[text]} and in {split}: two cells have the same "
                    "sentences. Remove one of the rows."
                )
