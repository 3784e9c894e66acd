"""The baselines: n-gram models over tokens, add-alpha and interpolated Kneser-Ney.

Every sequence is left-padded with n-1 ``<bos>``; the targets are the same tokens that the GPT predicts:
everything after ``<bos>``, ``<eos>`` included. Models are fitted on one store and give the probability
of every target of another, in the order of its tokens.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS
from minitrain.minitorch.arithmetic import log

Gram = tuple[int, ...]


def grams(store: TokenStore, n: int) -> Iterator[Gram]:
    """The n-gram that ends in each target."""
    tokens = store.tokens.tolist()
    for start, end in zip(store.offsets[:-1].tolist(), store.offsets[1:].tolist(), strict=True):
        padded = [BOS] * (n - 1) + tokens[start + 1 : end]
        for i in range(end - start - 1):
            yield tuple(padded[i : i + n])


def add_alpha_nll(train: TokenStore, store: TokenStore, n: int, alpha: float, vocab_size: int) -> np.ndarray:
    """-log p of each target, in nats: p = (count(context, token) + alpha) / (count(context) + alpha * V).

    Chen & Goodman 1999, section 2.1.
    """
    counts = Counter(grams(train, n))
    contexts = Counter(gram[:-1] for gram in grams(train, n))
    probabilities = [(counts[gram] + alpha) / (contexts[gram[:-1]] + alpha * vocab_size) for gram in grams(store, n)]
    return _nll(probabilities)


def kneser_ney_nll(train: TokenStore, store: TokenStore, n: int, discount: float, vocab_size: int) -> np.ndarray:
    """-log p of each target, in nats, by interpolated Kneser-Ney (Chen & Goodman 1999, section 2.7).

    The highest order counts occurrences; each lower order counts in how many contexts a gram has been
    seen (its continuations); what the discount takes from the seen goes to the next lower order, and
    below the unigrams to all tokens alike.
    """
    orders = [Counter(grams(train, n))]
    while len(orders) < n:
        orders.append(Counter(gram[1:] for gram in orders[-1]))  # distinct left neighbours
    levels = [  # unigrams first: the grams, how often each context came, how many tokens came after it
        (counts, Counter(gram[:-1] for gram in counts.elements()), Counter(gram[:-1] for gram in counts))
        for counts in reversed(orders)
    ]

    def probability(gram: Gram) -> float:
        p = 1 / vocab_size
        for order, (counts, totals, kinds) in enumerate(levels, start=1):
            part = gram[n - order :]
            total = totals[part[:-1]]
            if total == 0:
                break  # the context was never seen, and no longer one was either
            p = max(counts[part] - discount, 0) / total + discount * kinds[part[:-1]] / total * p
        return p

    return _nll([probability(gram) for gram in grams(store, n)])


def _nll(probabilities: Iterable[float]) -> np.ndarray:
    return -log(np.fromiter(probabilities, dtype=np.float64))
