"""Byte-pair encoding over characters (Sennrich et al. 2016), vectorised over a whole corpus.

A text becomes ``<bos>``, its tokens, ``<eos>``. Merges may cross spaces: the corpus is small and
regular, and ``" / en:"`` deserves one token. Texts live in one flat array of ids, in which ``<bos>``
and ``<eos>`` keep neighbours apart, so that a merge is a few array operations for all texts at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minitrain.errors import UserError

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Tokenizer:
    """``tokens[i]`` is the text of id i: the specials, the alphabet, then one entry a merge, in order."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[int, int], ...]

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
        """All texts as ids: flat uint16, offsets int64 (len(texts) + 1), and how often ``<unk>`` was needed."""
        n_chars = len(self.tokens) - len(self.merges)
        ids = _characters_to_ids(texts, self.tokens[len(SPECIALS) : n_chars])
        unknown = int(np.count_nonzero(ids == UNK))
        # In order of rank: a merge never makes a pair of lower rank, so one pass over the merges is enough.
        for rank, (left, right) in enumerate(self.merges):
            ids, _ = _merge(ids, left, right, n_chars + rank)
        offsets = np.append(np.flatnonzero(ids == BOS), len(ids)).astype(np.int64)
        return ids, offsets, unknown

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


def train(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """The tokenizer of exactly ``vocab_size`` entries that merges the most frequent pair of ``texts``, again and again.

    Of equally frequent pairs the lexicographically first is taken. Pairs are counted once; after that
    each merge only touches the counts around the places that it changed.
    """
    alphabet = sorted(set().union(*map(set, texts)))
    tokens = [*SPECIALS, *alphabet]
    if len(tokens) > vocab_size:
        raise UserError(
            f"tokenizer.vocab_size: expected at least {len(tokens)} for {len(alphabet)} characters and "
            f"{len(SPECIALS)} specials, got {vocab_size}."
        )
    merges: list[tuple[int, int]] = []
    ids = _characters_to_ids(texts, alphabet)
    pair_of = _pairs(ids, vocab_size)
    counts = np.bincount(pair_of(np.arange(len(ids) - 1)), minlength=vocab_size**2).reshape(vocab_size, vocab_size)
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
        merged, sites = _merge(ids, left, right, new)
        before = np.unique(np.concatenate([sites - 1, sites, sites + 1]))
        counts -= np.bincount(_pairs(ids, vocab_size)(before), minlength=vocab_size**2).reshape(counts.shape)
        moved = sites - np.arange(len(sites))  # each merge shortens what comes after it by one
        after = np.unique(np.concatenate([moved - 1, moved]))
        counts += np.bincount(_pairs(merged, vocab_size)(after), minlength=vocab_size**2).reshape(counts.shape)
        ids = merged
    return Tokenizer(tuple(tokens), tuple(merges))


def _pairs(ids: np.ndarray, vocab_size: int) -> Any:
    """The pair that starts at each of some positions, as one number."""
    return lambda positions: ids[positions].astype(np.int64) * vocab_size + ids[positions + 1]


def _characters_to_ids(texts: Sequence[str], alphabet: Sequence[str]) -> np.ndarray:
    """``<bos>`` characters ``<eos>`` of each text, flat, uint16; characters outside the alphabet are ``<unk>``."""
    table = np.full(0x110000, UNK, dtype=np.uint16)
    for i, char in enumerate(alphabet):
        table[ord(char)] = len(SPECIALS) + i
    # Two code points that no valid text contains stand for <bos> and <eos>.
    start, end = "\ud800", "\ud801"
    table[[ord(start), ord(end)]] = BOS, EOS
    chunk = 10_000  # texts at a time, to bound memory
    parts = [
        table[
            np.frombuffer(
                "".join(f"{start}{text}{end}" for text in texts[at : at + chunk]).encode("utf-32-le", "surrogatepass"),
                dtype=np.uint32,
            )
        ]
        for at in range(0, len(texts), chunk)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint16)


def _merge(ids: np.ndarray, left: int, right: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """``ids`` with each pair (left, right) replaced by ``new``, from left to right; and where the pairs stood."""
    sites = np.flatnonzero((ids[:-1] == left) & (ids[1:] == right))
    if left == right and len(sites):  # in "aaa" only the first pair can merge: take every other site of a run
        starts = np.flatnonzero(np.diff(sites, prepend=-2) != 1)
        run = np.repeat(starts, np.diff(starts, append=len(sites)))
        sites = sites[(np.arange(len(sites)) - run) % 2 == 0]
    keep = np.ones(len(ids), dtype=bool)
    keep[sites + 1] = False
    merged = ids.copy()
    merged[sites] = new
    return merged[keep], sites
