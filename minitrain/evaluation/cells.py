"""What the model knows, cell by cell and token by token, and the two masks of a batch: tables for the plots."""

import numpy as np

from minitrain.base import formats
from minitrain.dataset.batches import pad
from minitrain.dataset.read import Dataset
from minitrain.dataset.stores import TokenStore
from minitrain.minitorch.arithmetic import exp
from minitrain.minitorch.sequence_ops import attention_mask
from minitrain.scoring import mean, token_nll
from minitrain.training.export import ExportedModel

SENTENCES = 3  # how many of the best and of the worst


def tables(dataset: Dataset, exported: ExportedModel) -> dict[str, bytes]:
    """Three files of ``plots/baseline-compare/`` by name."""
    model = exported.model()
    nll = {split: token_nll(model, store) for split, store in dataset.stores.items()}
    tokens = dataset.tokenizer.tokens
    return {
        "cells.csv": cells_table(dataset, nll),
        "tokens.csv": tokens_table(dataset.stores["test"], nll["test"], tokens),
        "masks.csv": masks_table(dataset.stores["train"], tokens),
    }


def cells_table(dataset: Dataset, nll: dict[str, np.ndarray]) -> bytes:
    """The loss of every cell, in nats a token, both directions together; ``nll`` is that of each target, by split."""
    rows = []
    for split, store in dataset.stores.items():
        cell_of_target = np.repeat(store.cell, store.lengths - 1)
        for cell in np.unique(store.cell).tolist():
            of = dataset.cells[cell]
            loss = mean(nll[split][cell_of_target == cell])
            rows.append((of["verb"], of["tense"], of["person"] or "none", split, loss))
    return formats.csv_bytes(["verb", "tense", "person", "split", "loss"], formats.rounded(sorted(rows)))


def tokens_table(store: TokenStore, nll: np.ndarray, tokens: tuple[str, ...]) -> bytes:
    """The probability of each token of the sentences that the model predicts best and worst, by the mean of ``nll``."""
    of_sentence = np.split(nll, (store.lengths - 1).cumsum()[:-1])
    order = np.argsort([mean(x) for x in of_sentence], kind="stable")
    sequences = store.sequences()
    rows = [
        (f"{name} {rank}", position, tokens[sequences[index][position]], p)
        for name, chosen in (("best", order[:SENTENCES]), ("worst", order[::-1][:SENTENCES]))
        for rank, index in enumerate(chosen.tolist(), start=1)
        for position, p in enumerate(exp(-of_sentence[index]).tolist(), start=1)  # <bos> is predicted by nothing
    ]
    return formats.csv_bytes(["sentence", "position", "token", "probability"], formats.rounded(rows))


def masks_table(store: TokenStore, tokens: tuple[str, ...]) -> bytes:
    """A batch of three short sequences as the model gets it: at each position (query) the token read, its target, the
    loss mask, and which positions (keys) the attention mask lets it see.
    """
    shard = pad(store, np.unique(store.lengths, return_index=True)[1][:3])  # one of each of the three lowest lengths
    visible = attention_mask(shard.loss_mask, np.dtype(np.float32))[:, :, 0] == 0  # (key, B, query)
    columns = ["sequence", "query", "key", "token", "target", "attention_mask", "loss_mask"]
    rows = [
        (b, q, k, tokens[shard.tokens[b, q]], tokens[shard.targets[b, q]], int(seen), int(shard.loss_mask[b, q]))
        for (b, q, k), seen in np.ndenumerate(visible.transpose(1, 2, 0))
    ]
    return formats.csv_bytes(columns, rows)
