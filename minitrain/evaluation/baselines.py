"""Does the model beat the n-grams on cells that it has never seen?

Model and baselines are scored on the same target tokens of val and test; test is never used for a choice.
"""

from typing import Any

import numpy as np

from minitrain import figures
from minitrain.base import formats
from minitrain.dataset.read import Dataset
from minitrain.dataset.stores import DIRECTIONS, TokenStore
from minitrain.evaluation.ngram import add_alpha_nll, kneser_ney_nll
from minitrain.minitorch.arithmetic import LN2, log, total
from minitrain.params import NgramConfig
from minitrain.scoring import perplexity, token_nll
from minitrain.training import export, state

HELD_OUT = ("val", "test")


def measure(config: NgramConfig, dataset: Dataset, exported: export.ExportedModel) -> dict[str, Any]:
    """By split: perplexities of model, baselines and floor, and the model's by kind of verb, direction and half."""
    return {split: measure_split(split, config, dataset, exported) for split in HELD_OUT}


def measure_split(split: str, config: NgramConfig, dataset: Dataset, exported: export.ExportedModel) -> dict[str, Any]:
    """The scores on one split."""
    train, store, vocab_size = dataset.stores["train"], dataset.stores[split], exported.config.vocab_size
    orders = range(1, config.max_order + 1)
    nll = token_nll(exported.model(), store)
    add_alpha = {n: add_alpha_nll(train, store, n, config.alpha, vocab_size) for n in orders}
    kneser_ney = {n: kneser_ney_nll(train, store, n, config.discount, vocab_size) for n in orders[1:]}
    add_alpha_ppl, kneser_ney_ppl = (
        {str(n): perplexity(of_order) for n, of_order in baseline.items()} for baseline in (add_alpha, kneser_ney)
    )
    best_of = {"add_alpha": min(add_alpha_ppl.values()), "kneser_ney": min(kneser_ney_ppl.values())}
    best_of["baseline"] = min(best_of.values())
    # The corpus is all its sequences with equal chance: ln(number of sequences) nats each is the best possible.
    n_sequences = sum(len(of_split) for of_split in dataset.stores.values())
    floor_nats = len(store) * float(log(np.array(n_sequences, np.float64)))
    characters = sum(len(dataset.tokenizer.decode(tokens)) for tokens in store.sequences())
    total_nll = {
        "model": float(total(nll)),
        "best_kneser_ney": float(total(min(kneser_ney.values(), key=perplexity))),
        "floor": floor_nats,
    }
    return {
        "model_ppl": perplexity(nll),
        "add_alpha": add_alpha_ppl,
        "kneser_ney": kneser_ney_ppl,
        **{f"best_{name}_ppl": ppl for name, ppl in best_of.items()},
        "floor_ppl": perplexity(floor_nats / len(nll)),
        **{f"ratio_to_best_{name}": perplexity(nll) / ppl for name, ppl in best_of.items()},
        "targets": len(nll),
        "bits_per_character": {name: nats / LN2 / characters for name, nats in total_nll.items()},
        "model_ppl_by": {
            kind: {name: perplexity(nll[where]) for name, where in parts.items() if where.any()}
            for kind, parts in groups(store, dataset).items()
        },
    }


def groups(store: TokenStore, dataset: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """Which targets belong to which group: boolean masks by kind of grouping and name."""
    n_targets = store.lengths - 1  # of each sequence
    irregular = np.array([dataset.cells[cell]["english_regularity"] == "irregular" for cell in store.cell.tolist()])
    irregular, direction = np.repeat(irregular, n_targets), np.repeat(store.direction, n_targets)
    has_slash = np.array(["/" in token for token in dataset.tokenizer.tokens])
    second_half = np.concatenate([np.cumsum(has_slash[tokens])[:-1] > 0 for tokens in store.sequences()])
    return {
        "english_regularity": {"regular": ~irregular, "irregular": irregular},
        "direction": {name: direction == index for index, name in enumerate(DIRECTIONS)},
        "half": {"before_slash": ~second_half, "after_slash": second_half},
    }


def plots(scores: dict[str, Any]) -> dict[str, bytes]:
    """The files of ``plots/baseline-compare/`` by name."""
    scores = formats.rounded(scores)
    content = {}
    for split, of_split in scores.items():
        rows = [(n, ppl, of_split["model_ppl"], of_split["floor_ppl"]) for n, ppl in of_split["add_alpha"].items()]
        content[f"perplexity_{split}.csv"] = formats.csv_bytes(["n", "add_alpha", "model", "floor"], rows)
        # A table of its own: it has no n = 1, and a hole in a column would be drawn as 0.
        content[f"kneser_ney_{split}.csv"] = formats.csv_bytes(["n", "kneser_ney"], of_split["kneser_ney"].items())
    headline = {f"{split}_ratio": of_split["ratio_to_best_baseline"] for split, of_split in scores.items()}
    headline["test_ppl"] = scores["test"]["model_ppl"]  # that of val is the training's
    return {
        **content,
        "perplexity_vs_n.png": figures.perplexity_vs_n(scores),
        "scores.json": formats.json_bytes(scores),
        "metrics.json": formats.json_bytes(headline),
    }


def training_picture(final: state.TrainState) -> dict[str, bytes]:
    """The picture of the training for ``plots/train/``, by name. Training itself does not draw."""
    return {"loss.png": figures.loss_curve(final.log.steps, final.log.evaluations, final.best.step)}
