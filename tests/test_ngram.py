"""The baselines: by hand on corpora of a few words, and as probabilities that add up to one."""

import math

import numpy as np
import pytest
from conftest import store_of

from minitrain.dataset.tokenizer import BOS, EOS
from minitrain.evaluation.ngram import add_alpha_nll, kneser_ney_nll

V = 6
A, B = 4, 5
SAN, FRANCISCO, MY, YOUR, GLASSES, NEW = range(4, 10)


def store(*sequences):
    return store_of(*([BOS, *sequence, EOS] for sequence in sequences))


def test_add_alpha_by_hand():
    train = store([A, B], [A, A])  # bigrams: <A, AB, B>, <A, AA, A>
    nll = add_alpha_nll(train, store([A, B]), 2, 0.5, V)
    expected = [(2 + 0.5) / (2 + 3), (1 + 0.5) / (3 + 3), (1 + 0.5) / (1 + 3)]
    np.testing.assert_allclose(np.exp(-nll), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("n", "first", "second", "p"),
    [
        (2, NEW, FRANCISCO, 8 / 80),
        (2, NEW, GLASSES, 18 / 80),
        (2, SAN, FRANCISCO, 51 / 60),
        (2, MY, FRANCISCO, 1 / 20),
        (3, SAN, FRANCISCO, 111 / 120),
    ],
)
def test_kneser_ney_on_the_textbooks_san_francisco(n, first, second, p):
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
    train = store(*[[SAN, FRANCISCO]] * 3, [MY, GLASSES], [YOUR, GLASSES])
    nll = kneser_ney_nll(train, store([first, second]), n, 0.5, 10)
    assert math.exp(-nll[1]) == pytest.approx(p, rel=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("model", [add_alpha_nll, kneser_ney_nll])
@pytest.mark.parametrize("context", [[], [A], [A, B], [B, B, B]])
def test_probabilities_of_all_tokens_add_up_to_one(model, n, context):
    train = store([A, B, A], [A, A], [B])
    nll = [model(train, store([*context, token]), n, 0.4, V)[len(context)] for token in range(V)]
    assert np.exp(np.negative(nll)).sum() == pytest.approx(1, rel=1e-12)
