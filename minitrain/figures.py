"""The pictures, as PNG bytes: pure functions of numbers, drawn by matplotlib without a screen.

No clock and no path goes into a file, so equal numbers give equal bytes.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ["MPLBACKEND"] = "Agg"  # before the import, which may fail over a notebook's setting

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
BLUE, ORANGE, GREEN, RED, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#666666",
)  # told apart by the colour-blind too


def loss_curve(
    log: Sequence[tuple[float, float, float]], evaluations: Sequence[tuple[int, float]], best_step: int
) -> bytes:
    """Training and validation loss over the steps; below, learning rate and gradient norm."""
    with plt.style.context(["default", STYLE]):  # whatever the user's matplotlibrc says
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(7.5, 5.5), sharex=True, height_ratios=(2, 1), layout="constrained"
        )
        losses, rates, norms = zip(*log, strict=True)
        top.plot(losses, color=BLUE, alpha=0.35, linewidth=0.7, label="train, each step (with dropout)")
        steps, val_losses = zip(*evaluations, strict=True)
        top.plot(
            steps,
            val_losses,
            color=RED,
            marker="o",
            markersize=2.5,
            linewidth=1.2,
            label="validation (averaged weights)",
        )
        top.axvline(best_step, color=GREY, linestyle="--", linewidth=0.8)
        best_loss = dict(evaluations)[best_step]
        top.annotate(
            f"best: {best_loss:.3f}\nperplexity {math.exp(best_loss):.2f}\nstep {best_step}",
            (best_step, best_loss),
            xytext=(6, 34),
            textcoords="offset points",
            color=GREY,
        )
        top.set(title="Training", ylabel="cross entropy (nats a token)", ylim=(0, None))
        top.legend()
        bottom.plot(norms, color=GREEN, alpha=0.6, linewidth=0.7, label="gradient norm, before clipping")
        bottom.set(xlabel="step", ylabel="gradient norm", ylim=(0, 1.5 * max(norms)))
        right = bottom.twinx()
        right.plot(rates, color=ORANGE, label="learning rate")
        right.set(ylabel="learning rate", ylim=(0, 1.5 * max(rates)))
        right.grid(visible=False)
        bottom.legend(handles=[*bottom.get_lines(), *right.get_lines()], loc="upper right", ncols=2)
        return _png(figure)


def drift_per_layer(metrics: Mapping[str, Any], layers: Sequence[str], modes: Sequence[str]) -> bytes:
    """Relative L2 and largest error at each layer, a line for each format and mode, the formats' bounds beside them."""
    formats = [name for name, value in metrics.items() if isinstance(value, Mapping) and modes[0] in value]
    panels = (("relative_l2", "relative L2 error"), ("relative_max_error", "largest error / largest activation"))
    with plt.style.context(["default", STYLE]):  # whatever the user's matplotlibrc says
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
        for axis, (key, label) in zip(axes, panels, strict=True):
            for name, color in zip(formats, (BLUE, ORANGE), strict=True):
                for mode, style in zip(modes, ("-o", "--s"), strict=True):
                    values = [metrics[name][mode]["layers"][layer][key] for layer in layers]
                    axis.plot(
                        range(len(layers)),
                        values,
                        style,
                        color=color,
                        markersize=4,
                        label=f"{name}, {mode.replace('_', ' ')}",
                    )
                bound = metrics[name]["unit_roundoff"]
                axis.axhline(
                    bound, color=color, linestyle=":", linewidth=1, label=f"{name}: bound of one rounding, {bound:.1e}"
                )
            axis.set(title=label, yscale="log", xlabel="layer")
            axis.set_xticks(range(len(layers)), layers, rotation=20, ha="right")
        axes[0].set(ylabel="error against float32")
        figure.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=3)
        figure.suptitle("Drift under narrower formats, layer by layer")
        return _png(figure)


def perplexity_vs_n(metrics: Mapping[str, Any]) -> bytes:
    """Perplexity of the n-grams over n on each split, with the model and the floor as lines."""
    with plt.style.context(["default", STYLE]):  # whatever the user's matplotlibrc says
        figure, axes = plt.subplots(
            1, len(metrics), figsize=(9.5, 4.2), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (split, values) in zip(axes[0], metrics.items(), strict=True):
            _ngram_lines(axis, values)
            axis.set(title=f"{split}: held-out cells", xlabel="n-gram order n", yscale="log")
            axis.set_yticks([1, 1.5, 2, 3, 5, 10, 20, 40], ["1", "1.5", "2", "3", "5", "10", "20", "40"])
            axis.minorticks_off()
        axes[0][0].set(ylabel="perplexity (lower is better)")
        axes[0][0].legend()
        figure.suptitle("MiniGPT against n-grams on forms that none of them has seen")
        return _png(figure)


def _ngram_lines(axis: Axes, values: Mapping[str, Any]) -> None:
    for key, label, color in (("add_alpha", "add-alpha", BLUE), ("kneser_ney", "Kneser-Ney", ORANGE)):
        orders = sorted(map(int, values[key]))
        axis.plot(orders, [values[key][str(n)] for n in orders], marker="o", markersize=4, color=color, label=label)
    axis.axhline(values["model_ppl"], color=RED, label="MiniGPT")
    axis.annotate(
        f"{values['model_ppl']:.2f}", (1, values["model_ppl"]), xytext=(0, 3), textcoords="offset points", color=RED
    )
    axis.axhline(values["floor_ppl"], color=GREY, linestyle="--", label="floor (entropy of the corpus)")
    axis.annotate(
        f"{values['floor_ppl']:.2f}", (1, values["floor_ppl"]), xytext=(0, 3), textcoords="offset points", color=GREY
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
