"""The tokenizer against a plain BPE written here, and its promises on the corpus."""

from collections import Counter

import pytest

from minitrain import corpus, sequences, tokenizer
from minitrain.errors import UserError
from minitrain.tokenizer import BOS, EOS, UNK, Tokenizer


@pytest.fixture(scope="module")
def texts(root):
    return list(sequences.SequenceTexts(corpus.read_corpus(root / "data/shards", root / "data/MANIFEST.json").examples))


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
    bpe = tokenizer.train(sample, vocab_size)
    merges, words = plain_bpe(sample, vocab_size)
    assert [(bpe.tokens[a], bpe.tokens[b]) for a, b in bpe.merges] == merges
    ids, offsets, _ = bpe.encode(sample)
    for word, start, end in zip(words, offsets[:-1], offsets[1:], strict=True):
        assert [bpe.tokens[i] for i in ids[start + 1 : end - 1]] == word


def test_merges_on_the_corpus_are_those_of_plain_bpe(texts):
    bpe = tokenizer.train(texts, 64)
    assert [(bpe.tokens[a], bpe.tokens[b]) for a, b in bpe.merges] == plain_bpe(texts, 64)[0]


@pytest.mark.parametrize("texts_at_a_time", [1, 7, 639])
def test_how_texts_are_cut_into_arrays_changes_nothing(texts, texts_at_a_time, monkeypatch):
    whole = tokenizer.train(texts, 64)
    ids, offsets, unknown = whole.encode(texts)
    monkeypatch.setattr(tokenizer, "TEXTS_AT_A_TIME", texts_at_a_time)
    assert tokenizer.train(texts, 64) == whole
    again = whole.encode(texts)
    assert (again[0].tobytes(), again[1].tobytes(), again[2]) == (ids.tobytes(), offsets.tobytes(), unknown)


def test_exactly_64_entries_and_every_text_comes_back(texts):
    bpe = tokenizer.train(texts, 64)
    assert len(bpe.tokens) == len(set(bpe.tokens)) == 64
    ids, offsets, unknown = bpe.encode(texts)
    assert unknown == 0
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert bpe.decode(ids[start:end]) == text
        assert (ids[start], ids[end - 1]) == (BOS, EOS)


def test_unknown_characters_are_counted(texts):
    bpe = tokenizer.train(texts, 64)
    ids, _, unknown = bpe.encode(["ñandú ☃"])
    assert unknown == 2
    assert (ids == UNK).sum() == 2
    assert bpe.decode(ids) == "\N{REPLACEMENT CHARACTER}andú \N{REPLACEMENT CHARACTER}"


def test_a_vocabulary_that_does_not_fit_is_refused(texts):
    with pytest.raises(UserError, match="expected at least 38 for 34 characters"):
        tokenizer.train(texts, 30)
    with pytest.raises(UserError, match="too small for 64 entries"):
        tokenizer.train(["ab", "ba"], 64)


def test_json_round_trip_and_damage(texts):
    bpe = tokenizer.train(texts, 64)
    assert Tokenizer.from_json(bpe.to_json(), "t.json") == bpe
    value = bpe.to_json()
    broken = [
        None,
        [],
        {},
        {**value, "schema_version": 2},
        {**value, "extra": 1},
        {**value, "tokens": value["tokens"][::-1]},
        {**value, "tokens": value["tokens"][:-1]},
        {**value, "tokens": [*value["tokens"][:-1], value["tokens"][5]]},
        {**value, "tokens": [*value["tokens"][:-1], 7]},
        {**value, "merges": value["merges"][::-1]},
        {**value, "merges": [["x", "y"], *value["merges"][1:]]},
        {**value, "merges": [["a"], *value["merges"][1:]]},
    ]
    for other in broken:
        with pytest.raises(UserError, match=r"t\.json"):
            Tokenizer.from_json(other, "t.json")
