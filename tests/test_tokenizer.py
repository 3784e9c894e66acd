"""The tokenizer against a plain BPE written here, and its promises on the corpus."""

from collections import Counter

import pytest

from minitrain.base.errors import UserError
from minitrain.dataset import build
from minitrain.dataset.tokenizer import UNK, Tokenizer, train_tokenizer


def plain_bpe(texts, vocab_size):
    """The textbook algorithm: recount all pairs, merge the most frequent (ties: the first in order), repeat."""
    words = [list(text) for text in texts]
    known = 4 + len(set("".join(texts)))
    merges = []
    while known + len(merges) < vocab_size:
        counts = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(pair)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == pair:
                    word[i : i + 2] = ["".join(pair)]
                i += 1
    return merges, words


@pytest.mark.parametrize(
    ("texts", "vocab_size"),
    [
        (["aaaa aaa abab", "aabaa", "aaaaa"], 12),  # pairs that overlap
        (["banana bandana", "an anna"], 16),
        (["ab"] * 3 + ["ba"] * 3, 8),  # pairs as frequent as each other
        (None, 64),  # the corpus
    ],
)
def test_merges_and_tokens_are_those_of_plain_bpe(rows, texts, vocab_size):
    texts = texts or build.texts(rows)
    bpe = train_tokenizer(texts, vocab_size)
    merges, words = plain_bpe(texts, vocab_size)
    assert [(bpe.tokens[a], bpe.tokens[b]) for a, b in bpe.merges] == merges
    assert len(bpe.tokens) == len(set(bpe.tokens)) == vocab_size
    assert Tokenizer.from_json(bpe.to_json()) == bpe
    ids, offsets, unknown = bpe.encode(texts)
    got = [[bpe.tokens[i] for i in ids[start:end]] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
    assert got == [["<bos>", *word, "<eos>"] for word in words]
    assert unknown == 0


def test_unknown_characters_are_counted(bpe):
    ids, _, unknown = bpe.encode(["ñandú ☃"])
    assert unknown == (ids == UNK).sum() == 2
    assert bpe.decode(ids) == "\N{REPLACEMENT CHARACTER}andú \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("vocab_size", "message"), [(5, "expected at least 6 for 2 characters"), (64, "too small for 64 entries")]
)
def test_a_vocabulary_that_does_not_fit_is_refused(vocab_size, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(["ab", "ba"], vocab_size)
