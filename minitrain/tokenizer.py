"""Byte-pair encoding over characters (Sennrich et al. 2016), vectorised over many texts at once.

A text becomes ``<bos>``, its tokens, ``<eos>``. Merges may cross spaces: the corpus is small and
regular, and ``" / en:"`` deserves one token. Texts live in flat arrays of ids, some thousands of them in
each, in which ``<bos>`` and ``<eos>`` keep neighbours apart: a merge is a few operations on each array,
and what is computed on the way is never larger than one of them.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minitrain.errors import UserError

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
SCHEMA_VERSION = 1
TEXTS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Tokenizer:
    """``tokens[i]`` is the text of id i: the specials, the alphabet, then one entry a merge, in order."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[int, int], ...]

    def encode(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray, int]:
        """All texts as ids: flat uint16, offsets int64 (len(texts) + 1), and how often ``<unk>`` was needed."""
        n_chars = len(self.tokens) - len(self.merges)
        parts, unknown = [np.zeros(0, dtype=np.uint16)], 0
        for ids in _characters_to_ids(texts, self.tokens[len(SPECIALS) : n_chars]):
            unknown += int(np.count_nonzero(ids == UNK))
            # In order of rank: a merge never makes a pair of lower rank, so one pass over the merges is enough.
            for rank, (left, right) in enumerate(self.merges):
                ids = _merge(ids, _sites(ids, left, right), n_chars + rank)
            parts.append(ids)
        flat = np.concatenate(parts)
        offsets = np.append(np.flatnonzero(flat == BOS), len(flat)).astype(np.int64)
        return flat, offsets, unknown

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; ``<pad>``, ``<bos>`` and ``<eos>`` are silent, ``<unk>`` is U+FFFD."""
        pieces = ("", "", "", "\N{REPLACEMENT CHARACTER}", *self.tokens[len(SPECIALS) :])
        return "".join(pieces[i] for i in ids)

    def to_json(self) -> dict[str, Any]:
        """A value that reads and diffs well: tokens in order, merges as pairs of texts."""
        merges = [[self.tokens[left], self.tokens[right]] for left, right in self.merges]
        return {"schema_version": SCHEMA_VERSION, "tokens": list(self.tokens), "merges": merges}

    @classmethod
    def from_json(cls, value: Any, name: str) -> "Tokenizer":
        """Back from ``to_json``; UserError, naming ``name``, for anything that ``to_json`` cannot have written."""
        try:
            tokens = tuple(value["tokens"])
            ids = {token: i for i, token in enumerate(tokens)}
            merges = tuple((ids[left], ids[right]) for left, right in value["merges"])
            tokenizer = cls(tokens, merges)
            first = len(tokens) - len(merges)
            whole = (
                value == tokenizer.to_json()
                and len(ids) == len(tokens)
                and tokens[: len(SPECIALS)] == SPECIALS
                and all(isinstance(token, str) for token in tokens)
                and all(len(token) == 1 for token in tokens[len(SPECIALS) : first])
                and all(
                    tokens[first + rank] == tokens[left] + tokens[right]
                    and len(SPECIALS) <= min(left, right) <= max(left, right) < first + rank
                    for rank, (left, right) in enumerate(merges)
                )
            )
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"{name}: expected a tokenizer with 'tokens' and 'merges': {error!r}. Make it again with "
                "shard-to-batches."
            ) from error
        if not whole:
            raise UserError(
                f"{name}: its tokens and merges contradict each other. Make it again with shard-to-batches."
            )
        return tokenizer


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The tokenizer of exactly ``vocab_size`` entries that merges the most frequent pair of ``texts``, again and again.

    ``texts`` is gone through twice. Of equally frequent pairs the lexicographically first is taken. Pairs are counted
    once; after that each merge only touches the counts around the places that it changed.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    alphabet = sorted(characters)
    tokens = [*SPECIALS, *alphabet]
    if len(tokens) > vocab_size:
        raise UserError(
            f"tokenizer.vocab_size: expected at least {len(tokens)} for {len(alphabet)} characters and "
            f"{len(SPECIALS)} specials, got {vocab_size}."
        )
    merges: list[tuple[int, int]] = []
    chunks = list(_characters_to_ids(texts, alphabet))
    counts = np.zeros((vocab_size, vocab_size), dtype=np.int64)
    for ids in chunks:
        np.add.at(counts, (ids[:-1], ids[1:]), 1)
    while len(tokens) < vocab_size:
        mergeable = counts[len(SPECIALS) :, len(SPECIALS) :]
        best = int(mergeable.max())
        if best == 0:
            raise UserError(
                f"tokenizer.vocab_size: the corpus is too small for {vocab_size} entries: it ends at {len(tokens)}."
            )
        left, right = min(
            (np.argwhere(mergeable == best) + len(SPECIALS)).tolist(),
            key=lambda pair: (tokens[pair[0]], tokens[pair[1]]),
        )
        new = len(tokens)
        tokens.append(tokens[left] + tokens[right])
        merges.append((left, right))
        for index, ids in enumerate(chunks):
            sites = _sites(ids, left, right)
            if len(sites) == 0:
                continue
            chunks[index] = merged = _merge(ids, sites, new)
            moved = sites - np.arange(len(sites))  # each merge shortens what comes after it by one
            np.subtract.at(counts, _pairs(ids, _around(len(ids), sites - 1, sites, sites + 1)), 1)
            np.add.at(counts, _pairs(merged, _around(len(merged), moved - 1, moved)), 1)
    return Tokenizer(tuple(tokens), tuple(merges))


def _pairs(ids: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (left, right) that start at some positions."""
    return ids[positions], ids[positions + 1]


def _around(length: int, *positions: np.ndarray) -> np.ndarray:
    """Some positions below ``length``, each once."""
    marked = np.zeros(length, dtype=bool)
    for some in positions:
        marked[some] = True
    return np.flatnonzero(marked)


def _characters_to_ids(texts: Iterable[str], alphabet: Sequence[str]) -> Iterator[np.ndarray]:
    """``<bos>`` characters ``<eos>`` of each text, TEXTS_AT_A_TIME of them in a flat uint16 array; characters outside
    the alphabet are ``<unk>``.
    """
    table = np.full(0x110000, UNK, dtype=np.uint16)
    for i, char in enumerate(alphabet):
        table[ord(char)] = len(SPECIALS) + i
    # Two code points that no valid text contains stand for <bos> and <eos>.
    start, end = "\ud800", "\ud801"
    table[[ord(start), ord(end)]] = BOS, EOS
    waiting = iter(texts)
    while joined := "".join(f"{start}{text}{end}" for text in itertools.islice(waiting, TEXTS_AT_A_TIME)):
        yield table[np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)]


def _sites(ids: np.ndarray, left: int, right: int) -> np.ndarray:
    """Where the pair (left, right) stands, from left to right and without overlap."""
    sites = np.flatnonzero((ids[:-1] == left) & (ids[1:] == right))
    if left == right and len(sites):  # in "aaa" only the first pair can merge: take every other site of a run
        starts = np.flatnonzero(np.diff(sites, prepend=-2) != 1)
        run = np.repeat(starts, np.diff(starts, append=len(sites)))
        sites = sites[(np.arange(len(sites)) - run) % 2 == 0]
    return sites


def _merge(ids: np.ndarray, sites: np.ndarray, new: int) -> np.ndarray:
    """``ids`` with the pair at each of ``sites`` replaced by ``new``."""
    merged = ids.copy()
    merged[sites] = new
    keep = np.ones(len(ids), dtype=bool)
    keep[sites + 1] = False
    return merged[keep]
