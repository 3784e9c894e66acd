"""The pictures, as PNG bytes: pure functions of numbers, drawn by matplotlib without a screen.

No clock and no path goes into a file, so equal numbers give equal bytes.
"""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import ContextDecorator
from typing import Any

os.environ["MPLBACKEND"] = "Agg"  # before the import, which may fail over a notebook's setting

from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minitrain.scoring import perplexity

STYLE = {
    "figure.dpi": 110,
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
# Told apart by the colour-blind too; as on the page of make report (page/story.html).
BLUE, ORANGE, GREEN, RED, PINK, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#666666"

in_our_style: ContextDecorator = plt.style.context(["default", STYLE])  # whatever the user's matplotlibrc says


@in_our_style
def loss_curve(
    log: Sequence[tuple[float, float, float]], evaluations: Sequence[tuple[float, float]], best_step: int
) -> bytes:
    """Training and validation loss over the steps; below, learning rate and gradient norm."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7.5, 5.8), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    losses, rates, norms = zip(*log, strict=True)
    steps, val_losses = zip(*evaluations, strict=True)
    top.plot(losses, color=BLUE, alpha=0.35, linewidth=0.7, label="train, each step (with dropout)")
    top.plot(steps, val_losses, "-o", color=RED, markersize=2.5, linewidth=1.2, label="validation (averaged weights)")
    best_loss = dict(evaluations)[best_step]
    text = f"best: {best_loss:.3f} at step {best_step:,}\n(perplexity {perplexity(best_loss):.2f})"
    _mark(top, (best_step, best_loss), text, RED, above=14)
    top.set(title="Training", ylabel="cross entropy (nats a token), log axis")
    _log_axis(top)
    top.legend(loc="upper right")
    bottom.plot(norms, color=GREEN, alpha=0.6, linewidth=0.7, label="gradient norm, before clipping")
    bottom.set(xlabel="step", ylabel="gradient norm", ylim=(0, 1.5 * max(norms)))
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    right = bottom.twinx()
    right.plot(rates, color=ORANGE, label="learning rate")
    right.set(ylabel="learning rate", ylim=(0, 1.5 * max(rates)))
    right.grid(visible=False)
    bottom.legend(handles=[*bottom.get_lines(), *right.get_lines()], loc="upper right", ncols=2)
    return _png(figure)


@in_our_style
def drift_per_layer(metrics: Mapping[str, Any], formats: Sequence[str], modes: Sequence[str]) -> bytes:
    """Relative L2 and largest error at each layer, a line for each format and mode, the formats' bounds beside them."""
    layers = list(metrics["largest_activation"])
    panels = (("relative_l2", "relative L2 error"), ("relative_max_error", "largest error / largest activation"))
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.3), sharey=True, layout="constrained")
    for axis, (key, label) in zip(axes, panels, strict=True):
        for name, color in zip(formats, (BLUE, ORANGE), strict=True):
            for mode, style in zip(modes, ("-o", "--s"), strict=True):
                values = [metrics[name][mode]["layers"][layer][key] for layer in layers]
                line = f"{name}, {mode.replace('_', ' ')}"
                axis.plot(range(len(layers)), values, style, color=color, markersize=4, label=line)
            bound = metrics[name]["unit_roundoff"]
            axis.axhline(
                bound, color=color, linestyle=":", linewidth=1, label=f"{name}: bound of one rounding, {bound:.1e}"
            )
        axis.set(title=label, yscale="log", xlabel="layer")
        axis.set_xticks(range(len(layers)), layers, rotation=20, ha="right")
    axes[0].set(ylabel="error against float32")
    figure.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=2)
    figure.suptitle("Drift under narrower formats, layer by layer")
    return _png(figure)


@in_our_style
def perplexity_vs_n(metrics: Mapping[str, Any]) -> bytes:
    """Perplexity of the n-grams over n on each split, with the model and the floor as lines."""
    figure, axes = plt.subplots(1, len(metrics), figsize=(8, 4.3), sharey=True, squeeze=False, layout="constrained")
    for axis, (split, values) in zip(axes[0], metrics.items(), strict=True):
        n_grams = (("add_alpha", "add-alpha", BLUE, 26), ("kneser_ney", "Kneser-Ney", PINK, -20))
        for key, label, color, above in n_grams:
            by_order = {int(n): value for n, value in values[key].items()}
            axis.plot(*zip(*sorted(by_order.items()), strict=True), "-o", markersize=4, color=color, label=label)
            best = min(by_order, key=by_order.__getitem__)
            _mark(axis, (best, by_order[best]), f"{by_order[best]:.2f} at n = {best}", color, above)
        lines = (("model_ppl", "MiniGPT", RED, "-"), ("floor_ppl", "floor (entropy of the corpus)", GREEN, "--"))
        for key, label, color, style in lines:
            axis.axhline(values[key], color=color, linestyle=style, label=label)
            axis.annotate(
                f"{values[key]:.2f}", (1, values[key]), xytext=(0, 3), textcoords="offset points", color=color
            )
        axis.set(title=f"{split}: held-out cells", xlabel="n-gram order n", ylim=(1, None))
        _log_axis(axis)
    axes[0][0].set(ylabel="perplexity (lower is better), log axis")
    axes[0][0].legend()
    figure.suptitle("MiniGPT against n-grams on forms that none of them has seen")
    return _png(figure)


def _mark(axis: Axes, point: tuple[float, float], text: str, color: str, above: float) -> None:
    """A ring around a point, and what it is, so many points above it."""
    axis.plot(*point, "o", markersize=9, color=color, fillstyle="none")
    axis.annotate(text, point, xytext=(0, above), textcoords="offset points", color=color)


def _log_axis(axis: Axes) -> None:
    axis.set(yscale="log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
