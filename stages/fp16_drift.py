"""Stage fp16-drift: what would rounding to fp16 or bf16 do to the trained model, layer by layer?

Reads ``models/``, ``data/batches/``. Leaves ``plots/fp16-drift/``. Nothing is trained in a narrow
format: float32 numbers are rounded and the rest of the arithmetic stays float32.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minitrain import files
from minitrain.batches import Microshard, TokenStore, pad
from minitrain.errors import run_command
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT, token_nll
from minitrain.params import Params, read_params
from minitrain.precision import FORMATS, Format
from minitrain.tokenizer import Tokenizer
from stages.inputs import Batches, Export, model_of, read_batches, read_model
from stages.paths import MODELS, PLOTS

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
def measure(params: Params, batches: Batches, export: Export) -> tuple[dict[str, Any], list[Flip]]:
    """The drift at each layer under each format and mode on the validation set, and every changed argmax.

    A number that has overflowed is None.
    """
    store = batches.stores["val"]
    shard = pad(store, np.arange(len(store)))
    exact = export.model()
    reference = _activations(exact, shard, None)
    result: dict[str, Any] = {
        "perplexity_fp32": _perplexity(exact, store, None),
        "largest_activation": {layer: float(np.abs(x).max()) for layer, x in reference.items()},
        "positions": int(shard.loss_mask.sum()),
    }
    flips: list[Flip] = []
    for fmt in FORMATS:
        rounded = model_of(fmt.round(export.weights), params.model, params.tokenizer.vocab_size)
        largest = max(result["largest_activation"].values())
        result[fmt.name] = {
            "unit_roundoff": fmt.unit_roundoff,
            "max": fmt.max,
            "largest_activation_over_max": largest / fmt.max,
        }
        for mode in MODES:
            rounding = fmt if mode == "weights_and_activations" else None
            drifted = _activations(rounded, shard, rounding)
            new_flips = list(_flips(fmt, mode, reference["logits"], drifted["logits"], shard, batches.tokenizer))
            flips += new_flips
            result[fmt.name][mode] = {
                "layers": {layer: _drift(reference[layer], drifted[layer]) for layer in reference},
                "argmax_flips": len(new_flips),
                "perplexity": _perplexity(rounded, store, rounding),
            }
    return result, flips


def _activations(model: MiniGPT, shard: Microshard, rounding: Format | None) -> dict[str, np.ndarray]:
    """What leaves each layer: (positions, channels) by name, in order."""
    taps: dict[str, np.ndarray] = {}
    model.logits(Tape(recording=False, rounding=rounding.round if rounding else None), shard.tokens, taps)
    return taps


def _perplexity(model: MiniGPT, store: TokenStore, rounding: Format | None) -> float | None:
    tape = Tape(recording=False, rounding=rounding.round if rounding else None)
    return _finite(np.exp(token_nll(model, store, tape).mean()))


def _drift(exact: np.ndarray, drifted: np.ndarray) -> dict[str, float | None]:
    """||drifted - exact|| / ||exact|| over all positions, and the largest single difference, absolute and over
    the largest value.
    """
    exact, drifted = exact.astype(np.float64), drifted.astype(np.float64)
    difference = np.abs(drifted - exact)
    return {
        "relative_l2": _finite(np.sqrt((difference**2).sum() / (exact**2).sum())),
        "max_error": _finite(difference.max()),
        "relative_max_error": _finite(difference.max() / np.abs(exact).max()),
    }


def _finite(x: np.floating) -> float | None:
    """None, which JSON can say, where a format has overflowed."""
    return float(x) if np.isfinite(x) else None


def _flips(
    fmt: Format, mode: str, exact: np.ndarray, drifted: np.ndarray, shard: Microshard, tokenizer: Tokenizer
) -> Iterator[Flip]:
    before, after = exact.argmax(axis=1), drifted.argmax(axis=1)
    where = np.argwhere(shard.loss_mask)  # (positions, 2): sequence, time
    for index in np.flatnonzero(before != after).tolist():
        row, time = where[index].tolist()
        margin = float(f"{exact[index, before[index]] - exact[index, after[index]]:.3g}")
        target, was, now = (
            tokenizer.tokens[token] for token in (int(shard.targets[row, time]), int(before[index]), int(after[index]))
        )
        context = tokenizer.decode(shard.tokens[row, : time + 1].tolist())
        yield Flip(fmt.name, mode, context, target, was, now, margin)


def flips_page(flips: list[Flip], positions: int) -> str:
    """The list of flips for people, in Markdown; equal ones are one line with their number."""
    lines = [
        "# Changed argmax",
        "",
        "Positions of the validation set at which the most likely next token is another one after rounding,",
        f"of {positions} positions for each format. `margin` is by how much float32 preferred its choice: flips happen",
        "where two tokens were nearly equal.",
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


def series(metrics: dict[str, Any], layers: list[str], measure_name: str) -> tuple[list[str], list[list[Any]]]:
    """A table for plotting, a row a layer: one measure under each format and mode, and each format's bound."""
    lines = [(fmt.name, mode) for fmt in FORMATS for mode in MODES]
    columns = [
        "depth",
        "layer",
        *(f"{name}_{mode}" for name, mode in lines),
        *(f"{fmt.name}_unit_roundoff" for fmt in FORMATS),
    ]
    bounds = [fmt.unit_roundoff for fmt in FORMATS]
    rows = [
        [depth, layer, *(metrics[name][mode]["layers"][layer][measure_name] for name, mode in lines), *bounds]
        for depth, layer in enumerate(layers)
    ]
    return columns, rows


def plots(metrics: dict[str, Any], flips: list[Flip]) -> dict[str, bytes]:
    """The files of ``plots/fp16-drift/`` by name."""
    from minitrain import figures

    metrics = files.rounded(metrics)
    layers = list(metrics["largest_activation"])
    return {
        "relative_l2.csv": files.encode_csv(*series(metrics, layers, "relative_l2")),
        "relative_max_error.csv": files.encode_csv(*series(metrics, layers, "relative_max_error")),
        "argmax_flips.md": flips_page(flips, metrics["positions"]).encode(),
        "drift_per_layer.png": figures.drift_per_layer(metrics, layers, MODES),
        "metrics.json": files.encode_metrics(metrics),
    }


def produce() -> None:
    """Write everything that the stage leaves."""
    params = read_params()
    metrics, flips = measure(params, read_batches(params), read_model(params))
    files.write_all(PLOTS / "fp16-drift", plots(metrics, flips))
    for fmt in FORMATS:
        worst = metrics[fmt.name][MODES[1]]
        off = worst["layers"]["logits"]["relative_l2"]
        how_far = "overflow" if off is None else f"{off:.2e} off"
        print(f"{fmt.name}, weights and activations: logits {how_far}, {worst['argmax_flips']} argmax flips")


def main() -> None:
    produce()

    from minitrain import tracking

    tracking.add_results(MODELS, PLOTS, "fp16-drift")


if __name__ == "__main__":
    run_command(main)
