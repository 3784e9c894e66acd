"""The tokenizer against a plain BPE written here, and its promises on the corpus."""

from collections import Counter

import pytest

from minitrain.base.errors import UserError
from minitrain.corpus.shards import read_corpus
from minitrain.dataset import build
from minitrain.dataset.tokenizer import BOS, EOS, UNK, Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def texts(root):
    return build.texts(list(read_corpus(root / "data/shards", root / "data/MANIFEST.json").correct_rows.values()))


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
    ("sample", "vocab_size"),
    [(["aaaa aaa abab", "aabaa", "aaaaa"], 12), (["banana bandana", "an anna"], 16), (["ab"] * 3 + ["ba"] * 3, 8)],
)
def test_merges_and_tokens_are_those_of_plain_bpe(sample, vocab_size):
    bpe = train_tokenizer(sample, vocab_size)
    merges, words = plain_bpe(sample, vocab_size)
    assert [(bpe.tokens[a], bpe.tokens[b]) for a, b in bpe.merges] == merges
    ids, offsets, _ = bpe.encode(sample)
    for word, start, end in zip(words, offsets[:-1], offsets[1:], strict=True):
        assert [bpe.tokens[i] for i in ids[start + 1 : end - 1]] == word


def test_merges_on_the_corpus_are_those_of_plain_bpe(texts):
    bpe = train_tokenizer(texts, 64)
    assert [(bpe.tokens[a], bpe.tokens[b]) for a, b in bpe.merges] == plain_bpe(texts, 64)[0]


def test_exactly_64_entries_and_every_text_comes_back(texts):
    bpe = train_tokenizer(texts, 64)
    assert len(bpe.tokens) == len(set(bpe.tokens)) == 64
    ids, offsets, unknown = bpe.encode(texts)
    assert unknown == 0
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert bpe.decode(ids[start:end]) == text
        assert (ids[start], ids[end - 1]) == (BOS, EOS)


def test_unknown_characters_are_counted(texts):
    bpe = train_tokenizer(texts, 64)
    ids, _, unknown = bpe.encode(["ñandú ☃"])
    assert unknown == 2
    assert (ids == UNK).sum() == 2
    assert bpe.decode(ids) == "\N{REPLACEMENT CHARACTER}andú \N{REPLACEMENT CHARACTER}"


def test_a_vocabulary_that_does_not_fit_is_refused(texts):
    with pytest.raises(UserError, match="expected at least 38 for 34 characters"):
        train_tokenizer(texts, 30)
    with pytest.raises(UserError, match="too small for 64 entries"):
        train_tokenizer(["ab", "ba"], 64)


def test_json_round_trip_and_damage(texts):
    bpe = train_tokenizer(texts, 64)
    assert Tokenizer.from_json(bpe.to_json()) == bpe
    value = bpe.to_json()
    broken = [
        None,
        [],
        {},
        {"tokens": value["tokens"]},
        {**value, "tokens": 5},
        {**value, "merges": [["x", "y"], *value["merges"][1:]]},
        {**value, "merges": [["a"], *value["merges"][1:]]},
    ]
    for other in broken:
        with pytest.raises((ValueError, TypeError, KeyError)):
            Tokenizer.from_json(other)
