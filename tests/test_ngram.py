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
