"""Byte-pair encoding over characters (Sennrich et al. 2016), vectorised over all texts at once.

A text becomes ``<bos>``, its tokens, ``<eos>``. Merges may cross spaces: the corpus is small and
regular, and ``" / en:"`` deserves one token. All texts are stored in one flat array of ids, in which ``<bos>``
and ``<eos>`` keep neighbours apart: a merge is a few operations on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minitrain.base.errors import UserError

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Tokenizer:
    """``tokens[i]`` is the text of id i: the specials, the alphabet, then one entry a merge, in order."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[int, int], ...]

    def encode(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray, int]:
        """All texts as ids: flat uint16, offsets int64 (len(texts) + 1), and how often ``<unk>`` was needed."""
        n_chars = len(self.tokens) - len(self.merges)
        ids = _characters_to_ids(texts, self.tokens[len(SPECIALS) : n_chars])
        unknown = int(np.count_nonzero(ids == UNK))
        # In order of rank: a merge never makes a pair of lower rank, so one pass over the merges is enough.
        for rank, pair in enumerate(self.merges):
            ids = _merge(ids, pair, n_chars + rank)
        return ids, np.append(np.flatnonzero(ids == BOS), len(ids)).astype(np.int64), unknown

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; ``<pad>``, ``<bos>`` and ``<eos>`` are silent, ``<unk>`` is U+FFFD."""
        pieces = ("", "", "", "\N{REPLACEMENT CHARACTER}", *self.tokens[len(SPECIALS) :])
        return "".join(pieces[i] for i in ids)

    def to_json(self) -> dict[str, Any]:
        """A value that reads and diffs well: tokens in order, merges as pairs of texts."""
        merges = [[self.tokens[left], self.tokens[right]] for left, right in self.merges]
        return {"schema_version": 1, "tokens": list(self.tokens), "merges": merges}

    @classmethod
    def from_json(cls, value: Any) -> "Tokenizer":
        """Back from ``to_json``; ValueError, TypeError or KeyError for anything that is none."""
        tokens = tuple(map(str, value["tokens"]))
        ids = {token: i for i, token in enumerate(tokens)}
        return cls(tokens, tuple((ids[left], ids[right]) for left, right in value["merges"]))


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """The tokenizer of exactly ``vocab_size`` entries that merges the most frequent pair of ``texts``, again and again.

    Of equally frequent pairs the lexicographically first is taken.
    """
    alphabet = sorted(set().union(*texts))
    tokens = [*SPECIALS, *alphabet]
    if len(tokens) > vocab_size:
        raise UserError(
            f"model.vocab_size: expected at least {len(tokens)} for {len(alphabet)} characters and "
            f"{len(SPECIALS)} specials, got {vocab_size}."
        )
    merges: list[tuple[int, int]] = []
    ids = _characters_to_ids(texts, alphabet)
    while len(tokens) < vocab_size:
        n = len(tokens)
        counts = np.bincount(ids[:-1].astype(np.int64) * n + ids[1:], minlength=n * n).reshape(n, n)
        mergeable = counts[len(SPECIALS) :, len(SPECIALS) :]
        if not mergeable.any():
            raise UserError(f"model.vocab_size: the corpus is too small for {vocab_size} entries: it ends at {n}.")
        candidates = np.argwhere(mergeable == mergeable.max()) + len(SPECIALS)
        left, right = min(candidates.tolist(), key=lambda pair: (tokens[pair[0]], tokens[pair[1]]))
        tokens.append(tokens[left] + tokens[right])
        merges.append((left, right))
        ids = _merge(ids, (left, right), n)
    return Tokenizer(tuple(tokens), tuple(merges))


def _characters_to_ids(texts: Iterable[str], alphabet: Sequence[str]) -> np.ndarray:
    """``<bos>`` characters ``<eos>`` of each text, uint16, flat; characters outside the alphabet are ``<unk>``."""
    # Two code points that no valid text contains stand for <bos> and <eos>.
    start, end = "\ud800", "\ud801"
    table = np.full(0x110000, UNK, dtype=np.uint16)
    table[[ord(start), ord(end)]] = BOS, EOS
    for i, char in enumerate(alphabet):
        table[ord(char)] = len(SPECIALS) + i
    joined = "".join(f"{start}{text}{end}" for text in texts)
    return table[np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)]


def _merge(ids: np.ndarray, pair: tuple[int, int], new: int) -> np.ndarray:
    """``ids`` with each place of the pair replaced by ``new``, from left to right and without overlap."""
    places = np.flatnonzero((ids[:-1] == pair[0]) & (ids[1:] == pair[1]))
    if pair[0] == pair[1]:  # in "aaa" only the first pair can merge: take every other place of a run
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        run_start = np.repeat(starts, np.diff(starts, append=len(places)))
        places = places[(np.arange(len(places)) - run_start) % 2 == 0]
    merged = ids.copy()
    merged[places] = new
    return np.delete(merged, places + 1)
