"""The baselines: by hand on a corpus of two words, and as probabilities that add up to one."""

import math

import numpy as np
import pytest

from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS, EOS
from minitrain.evaluation.ngram import add_alpha_nll, grams, kneser_ney_nll

V = 6
A, B = 4, 5


def store(*sequences):
    sequences = [[BOS, *sequence, EOS] for sequence in sequences]
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    zeros = np.zeros(len(sequences))
    return TokenStore(
        np.concatenate(sequences).astype(np.uint16), offsets, zeros.astype(np.int32), zeros.astype(np.uint8)
    )


def test_grams_are_left_padded_and_end_in_every_target():
    assert list(grams(store([A, B]), 1)) == [(A,), (B,), (EOS,)]
    assert list(grams(store([A, B]), 3)) == [(BOS, BOS, A), (BOS, A, B), (A, B, EOS)]


def test_add_alpha_by_hand():
    train = store([A, B], [A, A])  # bigrams: <A, AB, B>, <A, AA, A>
    nll = add_alpha_nll(train, store([A, B]), 2, 0.5, V)
    expected = [(2 + 0.5) / (2 + 3), (1 + 0.5) / (3 + 3), (1 + 0.5) / (1 + 3)]
    np.testing.assert_allclose(np.exp(-nll), expected, rtol=1e-14)


def test_kneser_ney_by_hand():
    train = store([A, B], [A, A])  # bigram types: <A (2), AB, B>, AA, A> : A has 2 left neighbours, B 1, > 2
    d = 0.75
    unigram = {A: (2 - d) / 5 + d * 3 / 5 / V, B: (1 - d) / 5 + d * 3 / 5 / V, EOS: (2 - d) / 5 + d * 3 / 5 / V}
    expected = [
        (2 - d) / 2 + d * 1 / 2 * unigram[A],  # after <: 2 times, 1 kind
        (1 - d) / 3 + d * 3 / 3 * unigram[B],  # after A: 3 times, 3 kinds
        (1 - d) / 1 + d * 1 / 1 * unigram[EOS],
    ]
    np.testing.assert_allclose(np.exp(-kneser_ney_nll(train, store([A, B]), 2, d, V)), expected, rtol=1e-14)


def test_kneser_ney_on_the_textbooks_san_francisco():
    """Francisco is frequent, but only after San; glasses follow many words: so after a new word, glasses are likelier
    (Chen & Goodman 1999, section 2.7; Jurafsky & Martin). By hand, with a discount of 1/2 and ten tokens:

    bigrams: <s> San 3, San Francisco 3, Francisco </s> 3, <s> my 1, my glasses 1, <s> your 1, your glasses 1,
    glasses </s> 2. Of the 8 kinds, one ends in Francisco and two in glasses; 6 tokens end any.
    p(Francisco) = (1 - 1/2)/8 + 1/2 * 6/8 * 1/10 = 1/16 + 3/80 = 8/80
    p(glasses)   = (2 - 1/2)/8 + 3/80 = 18/80
    p(Francisco | San) = (3 - 1/2)/3 + 1/2 * 1/3 * 8/80 = 5/6 + 1/60 = 51/60
    p(Francisco | my)  = 0 + 1/2 * 1/1 * 8/80 = 1/20
    trigrams: <s> San Francisco 3. As a continuation, San Francisco has one left neighbour, <s>:
    p(Francisco | San), lower order = (1 - 1/2)/1 + 1/2 * 1/1 * 8/80 = 11/20
    p(Francisco | <s> San) = (3 - 1/2)/3 + 1/2 * 1/3 * 11/20 = 5/6 + 11/120 = 111/120
    """
    san, francisco, my, your, glasses, new = range(4, 10)
    train = store(*[[san, francisco]] * 3, [my, glasses], [your, glasses])

    def p(n, first, second):
        return math.exp(-kneser_ney_nll(train, store([first, second]), n, 0.5, 10)[1])

    assert p(2, new, francisco) == pytest.approx(8 / 80, rel=1e-14)
    assert p(2, new, glasses) == pytest.approx(18 / 80, rel=1e-14)
    assert p(2, san, francisco) == pytest.approx(51 / 60, rel=1e-14)
    assert p(2, my, francisco) == pytest.approx(1 / 20, rel=1e-14)
    assert p(3, san, francisco) == pytest.approx(111 / 120, rel=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("model", [add_alpha_nll, kneser_ney_nll])
@pytest.mark.parametrize("context", [[], [A], [A, B], [B, B, B]])
def test_probabilities_of_all_tokens_add_up_to_one(model, n, context):
    train = store([A, B, A], [A, A], [B])
    total = 0.0
    for token in range(V):
        other = store([*context, token])
        total += math.exp(-model(train, other, n, 0.4, V)[len(context)])
    assert total == pytest.approx(1, rel=1e-12)
