"""Stage baseline-compare: does the model beat the n-gram baselines on cells that it has never seen?

Reads ``models/``, ``data/batches/``. Leaves ``plots/baseline-compare/``. Model and baselines are scored
on the same target tokens of val and test; test is only read off, never used for a choice.
"""

import math
from typing import Any

import numpy as np

from minitrain import files
from minitrain.batches import DIRECTIONS, TokenStore
from minitrain.errors import run_command
from minitrain.minitorch.tape import Tape
from minitrain.model import token_nll
from minitrain.ngram import add_alpha_nll, kneser_ney_nll
from minitrain.params import Params, read_params
from minitrain.tokenizer import Tokenizer
from stages.inputs import Batches, Export, read_batches, read_model
from stages.paths import MODELS, PLOTS

HELD_OUT = ("val", "test")


def measure(params: Params, batches: Batches, export: Export) -> dict[str, Any]:
    """Perplexities of model, baselines and floor on val and test, and the model's by kind of verb, direction
    and half.
    """
    train, vocab_size, ngram = batches.stores["train"], params.tokenizer.vocab_size, params.ngram
    n_sequences = sum(len(store) for store in batches.stores.values())
    result: dict[str, Any] = {}
    for split in HELD_OUT:
        store = batches.stores[split]
        nll = token_nll(export.model(), store, Tape(recording=False))
        add_alpha = {
            str(n): perplexity(add_alpha_nll(train, store, n, ngram.alpha, vocab_size))
            for n in range(1, ngram.max_order + 1)
        }
        kneser_ney_of = {
            str(n): kneser_ney_nll(train, store, n, ngram.discount, vocab_size) for n in range(2, ngram.max_order + 1)
        }
        kneser_ney = {n: perplexity(values) for n, values in kneser_ney_of.items()}
        best = min(*add_alpha.values(), *kneser_ney.values())
        best_kneser_ney = kneser_ney_of[min(kneser_ney, key=kneser_ney.__getitem__)]
        characters = sum(len(batches.tokenizer.decode(tokens)) for tokens in _sequences(store))
        # The corpus is all its sequences with equal chance: ln(number of sequences) nats each, and no model can
        # do better.
        floor = len(store) * math.log(n_sequences) / len(nll)
        result[split] = {
            "model_ppl": perplexity(nll),
            "add_alpha": add_alpha,
            "kneser_ney": kneser_ney,
            "best_add_alpha_ppl": min(add_alpha.values()),
            "best_kneser_ney_ppl": min(kneser_ney.values()),
            "best_baseline_ppl": best,
            "floor_ppl": math.exp(floor),
            "ratio_to_best_baseline": perplexity(nll) / best,
            "ratio_to_best_add_alpha": perplexity(nll) / min(add_alpha.values()),
            "ratio_to_best_kneser_ney": perplexity(nll) / min(kneser_ney.values()),
            "targets": len(nll),
            "bits_per_character": {
                "model": float(nll.sum()) / math.log(2) / characters,
                "best_kneser_ney": float(best_kneser_ney.sum()) / math.log(2) / characters,
                "floor": floor * len(nll) / math.log(2) / characters,
            },
            "model_ppl_by": {
                kind: {name: perplexity(nll[where]) for name, where in parts.items() if where.any()}
                for kind, parts in groups(store, batches.cells, batches.tokenizer).items()
            },
        }
    return result


def perplexity(nll: np.ndarray) -> float:
    return math.exp(float(nll.mean()))


def groups(store: TokenStore, cells: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, dict[str, np.ndarray]]:
    """Which targets belong to which group: boolean masks by kind of grouping and name."""
    per_sequence = store.lengths - 1  # targets
    irregular = np.array([cells[cell]["english_regularity"] == "irregular" for cell in store.cell.tolist()])
    second_half = np.concatenate([_after_slash(tokens, tokenizer) for tokens in _sequences(store)])

    def spread(of_sequence: np.ndarray) -> np.ndarray:
        return np.repeat(of_sequence, per_sequence)

    return {
        "english_regularity": {"regular": spread(~irregular), "irregular": spread(irregular)},
        "direction": {name: spread(store.direction == index) for index, name in enumerate(DIRECTIONS)},
        "half": {"before_slash": ~second_half, "after_slash": second_half},
    }


def _after_slash(tokens: list[int], tokenizer: Tokenizer) -> np.ndarray:
    """For each target of a sequence, whether it comes after the token with the ``/``."""
    slash = next(i for i, token in enumerate(tokens) if "/" in tokenizer.tokens[token])
    return np.arange(1, len(tokens)) > slash


def _sequences(store: TokenStore) -> list[list[int]]:
    return [part.tolist() for part in np.split(store.tokens, store.offsets[1:-1])]


def plots(metrics: dict[str, Any]) -> dict[str, bytes]:
    """The files of ``plots/baseline-compare/`` by name."""
    from minitrain import figures

    metrics = files.rounded(metrics)
    content = {}
    for split, of_split in metrics.items():
        lines = of_split["model_ppl"], of_split["floor_ppl"]
        rows = [(n, ppl, *lines) for n, ppl in of_split["add_alpha"].items()]
        content[f"perplexity_{split}.csv"] = files.encode_csv(["n", "add_alpha", "model", "floor"], rows)
        # A table of its own: it has no n = 1, and a hole in a column would be drawn as 0.
        content[f"kneser_ney_{split}.csv"] = files.encode_csv(["n", "kneser_ney"], list(of_split["kneser_ney"].items()))
    return {
        **content,
        "perplexity_vs_n.png": figures.perplexity_vs_n(metrics),
        "metrics.json": files.encode_metrics(metrics),
    }


def produce() -> None:
    """Write everything that the stage leaves."""
    params = read_params()
    metrics = measure(params, read_batches(params), read_model(params))
    files.write_all(PLOTS / "baseline-compare", plots(metrics))
    for split in HELD_OUT:
        m = metrics[split]
        print(
            f"{split}: model {m['model_ppl']:.4f}, best n-gram {m['best_baseline_ppl']:.4f}, "
            f"ratio {m['ratio_to_best_baseline']:.4f}, floor {m['floor_ppl']:.4f}"
        )


def main() -> None:
    produce()

    from minitrain import tracking

    tracking.add_results(MODELS, PLOTS, "baseline-compare")


if __name__ == "__main__":
    run_command(main)
