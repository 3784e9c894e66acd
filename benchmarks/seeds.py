"""Is the result luck? Train ten seeds, split and initialisation both varied, and tabulate the ratios.

One configuration, that of params.yaml, chosen on validation; test is only read off. Writes the
table ``benchmarks/seeds.md``. Takes some minutes: ``make seeds``. With ``--dask ADDRESS`` the seeds are
trained by the workers of a Dask cluster, see docs/larger.md; the numbers are the same.
"""

import argparse
import dataclasses
import functools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import commit
from minitrain.base import files
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.corpus.shards import Corpus, read_corpus
from minitrain.dataset.build import build_dataset
from minitrain.dataset.read import read_dataset
from minitrain.evaluation import baselines
from minitrain.loop import train
from minitrain.params import Params, read_params
from minitrain.training.export import ExportedModel
from minitrain.training.state import initial_state

TABLE = Path("benchmarks/seeds.md")
N_SEEDS = 10
T_95 = 2.262  # Student's t, 97.5 % quantile, for ten values
EACH = {"add-alpha": 0.60, "Kneser-Ney": 0.72}  # the bound on each seed's ratio, val and test
MEAN_ON_TEST = {"add-alpha": 0.55, "Kneser-Ney": 0.66}
COLUMNS = {  # of each split, and what the stage baseline-compare calls them
    "model": "model_ppl",
    "/ add-alpha": "ratio_to_best_add_alpha",
    "/ Kneser-Ney": "ratio_to_best_kneser_ney",
}


def run_seed(params: Params, corpus: Corpus, seed: int) -> dict[str, float]:
    """Train one seed; perplexities and ratios on val and test, as the stage baseline-compare measures them."""
    split, settings = dataclasses.replace(params.split, seed=seed), dataclasses.replace(params.train, seed=seed)
    with tempfile.TemporaryDirectory() as temporary:
        batches, _ = build_dataset(dataclasses.replace(params, split=split), corpus, "")
        files.write_all(Path(temporary), batches)
        dataset = read_dataset(Path(temporary), params.model)
    state = initial_state(params.model, settings)
    for _ in train(state, dataset.stores["train"], dataset.stores["val"], params.model, settings):
        pass  # the state is all that is wanted
    exported = ExportedModel(Path(), {}, params.model, dataset.tokenizer, state.best.weights)  # in memory alone
    metrics = baselines.measure(params.ngram, dataset, exported)
    scores = {f"{split} {name}": of[key] for split, of in metrics.items() for name, key in COLUMNS.items()}
    return {"best step": state.best.step, **scores}


def run_seeds(
    params: Params, corpus: Corpus, seeds: Sequence[int], address: str | None = None
) -> Iterator[tuple[int, dict[str, float]]]:
    """Each seed with its result, in order: trained here, or by the workers of the Dask scheduler at ``address``."""
    run = functools.partial(run_seed, params, corpus)
    if address is None:
        yield from zip(seeds, map(run, seeds), strict=True)
    else:
        try:
            from distributed import Client  # not in requirements.lock

            client = Client(address)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"--dask {address}: {error}. docs/larger.md says how to start a cluster.") from error
        with client:  # a seed whose worker dies is given to another one
            for seed, future in zip(seeds, client.map(run, seeds), strict=True):
                yield seed, future.result()


def bounds_hold(results: dict[int, dict[str, float]], means: dict[str, float]) -> bool:
    """Whether each ratio and the means over test are within their bounds."""
    each = all(
        row[f"{split} / {name}"] <= bound
        for name, bound in EACH.items()
        for split in baselines.HELD_OUT
        for row in results.values()
    )
    return each and all(means[f"test / {name}"] <= bound for name, bound in MEAN_ON_TEST.items())


def page(results: dict[int, dict[str, float]], means: dict[str, float]) -> str:
    """The table with mean and 95 % interval, in Markdown."""
    rows = [
        f"| {seed} | {row['best step']} | " + " | ".join(f"{row[column]:.3f}" for column in means) + " |\n"
        for seed, row in results.items()
    ]
    deviations = [np.std([row[column] for row in results.values()], ddof=1) for column in means]
    return f"""# {N_SEEDS} seeds

Perplexity of the model on held-out cells, and its ratio to the best n-gram of each kind; the seed varies split
and initialisation. Bounds on each ratio: {", ".join(f"{name} {bound}" for name, bound in EACH.items())}; on the mean \
over test: {", ".join(f"{name} {bound}" for name, bound in MEAN_ON_TEST.items())}.
{"All hold." if bounds_hold(results, means) else "NOT ALL HOLD."}

| seed | best step | {" | ".join(means)} |
|{"---:|" * (2 + len(means))}
{"".join(rows)}\
| **mean** | | {" | ".join(f"**{mean:.3f}**" for mean in means.values())} |
| 95 % interval | | {" | ".join(f"± {T_95 * deviation / math.sqrt(N_SEEDS):.3f}" for deviation in deviations)} |

Made by `make seeds` from `params.yaml` at commit {commit()}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--dask", metavar="ADDRESS", help="of a Dask scheduler, such as tcp://127.0.0.1:8786")
    address = parser.parse_args().dask
    params = read_params()
    corpus = read_corpus(Path(params.data.shards), Path(params.data.manifest))
    results = {}
    seeds = range(params.train.seed, params.train.seed + N_SEEDS)
    for seed, result in run_seeds(params, corpus, seeds, address):
        results[seed] = result
        print(seed, {name: round(value, 3) for name, value in results[seed].items()})
    columns = [f"{split} {name}" for split in baselines.HELD_OUT for name in COLUMNS]
    means = {column: float(np.mean([row[column] for row in results.values()])) for column in columns}
    files.write_bytes(TABLE, page(results, means).encode())
    if not bounds_hold(results, means):
        raise UserError(f"not all bounds hold: see {TABLE}")


if __name__ == "__main__":
    run_command(main)
