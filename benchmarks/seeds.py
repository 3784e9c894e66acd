"""Is the result luck? Train ten seeds, split and initialisation both varied, and tabulate the ratios.

One configuration, that of params.yaml, chosen on validation; test is only read off. Prints the table
and writes it to ``benchmarks/seeds.md``. Takes some minutes: ``make seeds``.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.corpus.shards import Corpus, read_corpus
from minitrain.dataset.build import build_dataset
from minitrain.dataset.stores import SPLITS, TokenStore
from minitrain.evaluation.ngram import add_alpha_nll, kneser_ney_nll
from minitrain.loop import Step, train
from minitrain.model import MiniGPT
from minitrain.params import Params, read_params
from minitrain.scoring import perplexity, token_nll
from minitrain.training.state import initial_state

TABLE = Path("benchmarks/seeds.md")
EACH = {"add-alpha": 0.60, "Kneser-Ney": 0.72}  # the bound on each seed's ratio, val and test
MEAN_ON_TEST = {"add-alpha": 0.55, "Kneser-Ney": 0.66}
T_95 = {5: 2.776, 10: 2.262, 20: 2.093}  # Student's t, 97.5 % quantile, for n values; others get no interval


def run_seed(params: Params, corpus: Corpus, seed: int) -> dict[str, float]:
    """Train one seed; perplexities and ratios on val and test."""
    params = dataclasses.replace(params, split=dataclasses.replace(params.split, seed=seed))
    content, _ = build_dataset(params, corpus, "")
    stores = {split: TokenStore(**tensors.decode_tensors(content[f"{split}.safetensors"], split)) for split in SPLITS}

    settings = dataclasses.replace(params.train, seed=seed)
    state = initial_state(params.model, settings)
    with tqdm(total=settings.steps, desc=f"seed {seed}", unit="step", disable=None) as bar:
        for event in train(state, stores["train"], stores["val"], params.model, settings):
            if isinstance(event, Step):
                bar.update()
    model = MiniGPT.with_weights(params.model, state.best.weights)
    train_set, ngram, vocab_size = stores["train"], params.ngram, params.model.vocab_size

    result: dict[str, float] = {"seed": seed, "best step": state.best.step}
    for split in ("val", "test"):
        store = stores[split]
        ppl = perplexity(token_nll(model, store))
        orders = range(1, ngram.max_order + 1)
        add_alpha = [add_alpha_nll(train_set, store, n, ngram.alpha, vocab_size) for n in orders]
        kneser_ney = [kneser_ney_nll(train_set, store, n, ngram.discount, vocab_size) for n in orders[1:]]
        result[f"{split} model"] = ppl
        for name, of_orders in (("add-alpha", add_alpha), ("Kneser-Ney", kneser_ney)):
            result[f"{split} / {name}"] = ppl / min(map(perplexity, of_orders))
    return result


def table(results: Sequence[dict[str, float]]) -> tuple[str, list[str]]:
    """The Markdown table with mean and 95 % interval, and what exceeds its bound."""
    columns = list(results[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---:|" * len(columns)]
    lines += [
        "| " + " | ".join(f"{row[c]:.0f}" if c in ("seed", "best step") else f"{row[c]:.3f}" for c in columns) + " |"
        for row in results
    ]
    means, halves, broken = {}, {}, []
    for column in columns[2:]:
        values = [row[column] for row in results]
        means[column] = sum(values) / len(values)
        deviation = math.sqrt(sum((v - means[column]) ** 2 for v in values) / max(1, len(values) - 1))
        halves[column] = T_95.get(len(values), math.nan) * deviation / math.sqrt(len(values))
    lines.append("| **mean** | | " + " | ".join(f"**{means[c]:.3f}**" for c in columns[2:]) + " |")
    lines.append(
        "| 95 % interval | | "
        + " | ".join("" if math.isnan(halves[c]) else f"± {halves[c]:.3f}" for c in columns[2:])
        + " |"
    )
    for name, bound in EACH.items():
        for split in ("val", "test"):
            broken += [
                f"seed {row['seed']:.0f}: {split} / {name} is {row[f'{split} / {name}']:.3f}, bound {bound}"
                for row in results
                if row[f"{split} / {name}"] > bound
            ]
    broken += [
        f"mean of test / {name} is {means[f'test / {name}']:.3f}, bound {bound}"
        for name, bound in MEAN_ON_TEST.items()
        if means[f"test / {name}"] > bound
    ]
    return "\n".join(lines), broken


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seeds", description="Train several seeds and tabulate the ratios to the n-grams."
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many, counting up from train.seed (default: 10)")
    n_seeds = parser.parse_args().seeds
    if n_seeds < 2:
        parser.error("--seeds: expected at least 2")
    params = read_params()
    results, corpus = [], read_corpus(Path(params.data.shards), Path(params.data.manifest))
    for seed in range(params.train.seed, params.train.seed + n_seeds):
        results.append(run_seed(params, corpus, seed))
        print({name: round(value, 3) for name, value in results[-1].items()}, file=sys.stderr)
    text, broken = table(results)
    bounds = ", ".join(f"{name} {bound}" for name, bound in EACH.items())
    means = ", ".join(f"{name} {bound}" for name, bound in MEAN_ON_TEST.items())
    page = f"""# {n_seeds} seeds

Perplexity of the model on held-out cells, and its ratio to the best n-gram of each kind; the seed varies split
and initialisation. Bounds on each ratio: {bounds}; on the mean over test: {means}.
{"All hold." if not broken else "NOT ALL HOLD: " + "; ".join(broken)}

{text}

Made by `make seeds` from `params.yaml`.
"""
    files.write_bytes(TABLE, page.encode())
    print(page)
    if broken:
        raise UserError(f"{len(broken)} bounds do not hold.")


if __name__ == "__main__":
    run_command(main)
