"""What would rounding to fp16 or bf16 do to the trained model, layer by layer?

Nothing is trained in a narrow format: float32 numbers are rounded and the rest of the arithmetic stays float32.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minitrain import figures
from minitrain.base import formats
from minitrain.dataset import batches, read, tokenizer
from minitrain.evaluation.rounding import FORMATS
from minitrain.minitorch.arithmetic import total
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT
from minitrain.scoring import perplexity, token_nll
from minitrain.training.export import ExportedModel

MODES = ("weights", "weights_and_activations")  # the second rounds the result of every operation as well


class Flip(NamedTuple):
    """A position at which the most likely token changes."""

    format: str
    mode: str
    context: str
    target: str
    before: str
    after: str
    margin: float  # in float32, of the best logit over the one that overtakes it


@np.errstate(over="ignore", invalid="ignore")  # an overflow is a finding here, see _finite
def measure(dataset: read.Dataset, exported: ExportedModel) -> tuple[dict[str, Any], list[Flip]]:
    """The drift at each layer under each format and mode on the validation set, and every changed argmax.

    A number that has overflowed is None.
    """
    store = dataset.stores["val"]
    shard = batches.pad(store, np.arange(len(store)))
    exact = exported.model()
    reference = exact.activations(Tape(recording=False), shard.tokens)
    largest = {layer: float(np.abs(x).max()) for layer, x in reference.items()}
    result: dict[str, Any] = {
        "perplexity_fp32": perplexity(token_nll(exact, store)),
        "largest_activation": largest,
        "positions": shard.n_targets,
    }
    flips: list[Flip] = []
    for fmt in FORMATS:
        rounded = MiniGPT.with_weights(exported.config, fmt.round(exported.weights))
        result[fmt.name] = {
            "unit_roundoff": fmt.unit_roundoff,
            "max": fmt.max,
            "largest_activation_over_max": max(largest.values()) / fmt.max,
        }
        for mode in MODES:
            rounding = fmt.round if mode == "weights_and_activations" else None
            drifted = rounded.activations(Tape(recording=False, rounding=rounding), shard.tokens)
            found = changed_argmax(reference["logits"], drifted["logits"], shard, dataset.tokenizer)
            flips += (new_flips := [Flip(fmt.name, mode, *flip) for flip in found])
            result[fmt.name][mode] = {
                "layers": {layer: distance(reference[layer], drifted[layer]) for layer in reference},
                "argmax_flips": len(new_flips),
                "argmax_flip_contexts": len({flip.context for flip in new_flips}),
                "perplexity": _finite(perplexity(token_nll(rounded, store, rounding))),
            }
    return result, flips


def distance(exact: np.ndarray, drifted: np.ndarray) -> dict[str, float | None]:
    """||drifted - exact|| / ||exact|| over all positions, and the largest single difference, absolute and over
    the largest value.
    """
    exact, drifted = exact.astype(np.float64), drifted.astype(np.float64)
    difference = np.abs(drifted - exact)
    return {
        "relative_l2": _finite(np.sqrt(_sum_of_squares(difference) / _sum_of_squares(exact))),
        "max_error": _finite(difference.max()),
        "relative_max_error": _finite(difference.max() / np.abs(exact).max()),
    }


def _sum_of_squares(x: np.ndarray) -> np.ndarray:
    return total(x.ravel() * x.ravel())


def _finite(x: float) -> float | None:
    """None, which JSON can say, where a format has overflowed."""
    return float(x) if np.isfinite(x) else None


def changed_argmax(
    exact: np.ndarray, drifted: np.ndarray, shard: batches.Microshard, bpe: tokenizer.Tokenizer
) -> Iterator[tuple[str, str, str, str, float]]:
    """Context, target, token before, token after and margin of each position whose largest logit is another one."""
    before, after = exact.argmax(axis=1), drifted.argmax(axis=1)
    where = np.argwhere(shard.loss_mask)  # (positions, 2): sequence, time
    for index in np.flatnonzero(before != after).tolist():
        row, time = where[index].tolist()
        margin = float(f"{exact[index, before[index]] - exact[index, after[index]]:.3g}")
        target, was, now = (bpe.tokens[i] for i in (shard.targets[row, time], before[index], after[index]))
        yield bpe.decode(shard.tokens[row, : time + 1].tolist()), target, was, now, margin


def flips_page(flips: list[Flip], positions: int) -> str:
    """The list of flips for people, in Markdown; equal ones are one line with their number."""
    lines = [
        "# Changed argmax",
        "",
        f"At which of the validation set's {positions:,} positions rounding changes the most likely next token.",
        "`margin` is by how much float32 preferred its choice: flips happen where two tokens were nearly equal.",
        "",
        "| format | rounded | context | target | fp32 | rounded to | margin | positions |",
        "|---|---|---|---|---|---|---:|---:|",
    ]
    lines += [
        f"| {f.format} | {f.mode.replace('_', ' ')} | `<bos>{f.context}` | `{f.target}` | `{f.before}` | `{f.after}` "
        f"| {f.margin:.3g} | {count} |"
        for f, count in Counter(flips).items()
    ]
    return "\n".join(lines) + "\n"


def table(metrics: dict[str, Any], key: str) -> bytes:
    """A CSV for plotting, a row a layer: one measure under each format and mode, and the bound of each format."""
    lines = [(fmt.name, mode) for fmt in FORMATS for mode in MODES]
    bounds = {f"{fmt.name}_unit_roundoff": fmt.unit_roundoff for fmt in FORMATS}
    columns = ["depth", "layer", *("_".join(line) for line in lines), *bounds]
    rows = [
        [depth, layer, *(metrics[name][mode]["layers"][layer][key] for name, mode in lines), *bounds.values()]
        for depth, layer in enumerate(metrics["largest_activation"])
    ]
    return formats.csv_bytes(columns, rows)


def plots(metrics: dict[str, Any], flips: list[Flip]) -> dict[str, bytes]:
    """The files of ``plots/fp16-drift/`` by name."""
    metrics = formats.rounded(metrics)
    return {
        "relative_l2.csv": table(metrics, "relative_l2"),
        "relative_max_error.csv": table(metrics, "relative_max_error"),
        "argmax_flips.md": flips_page(flips, metrics["positions"]).encode(),
        "drift_per_layer.png": figures.drift_per_layer(metrics, [fmt.name for fmt in FORMATS], MODES),
        "drift.json": formats.json_bytes(metrics),
        "metrics.json": formats.json_bytes({"drift": metrics["fp16"][MODES[1]]["layers"]["logits"]["relative_l2"]}),
    }
