"""The benchmarks' pictures, as PNG bytes, in the style of minitrain.figures."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from minitrain.figures import BLUE, GREY, ORANGE, STYLE


def tokens_a_second(quartiles: Mapping[str, Sequence[float]], ours: str, title: str) -> bytes:
    """A bar for each contender, up to its median, with its quartiles as a line."""
    with plt.style.context(["default", STYLE]):
        figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.45 * len(quartiles)), layout="constrained")
        for row, (name, (low, median, high)) in enumerate(quartiles.items()):
            axes.barh(row, median, color=BLUE if name == ours else GREY, height=0.65)
            axes.plot([low, high], [row, row], color="black", linewidth=1)
            axes.annotate(f"{median:,.0f}", (0, row), xytext=(4, -3), textcoords="offset points", color="white")
        axes.set_axisbelow(True)
        axes.set_yticks(range(len(quartiles)), labels=list(quartiles))
        axes.invert_yaxis()
        axes.set_xlabel("real tokens a second (median; line: middle half of the steps)")
        axes.set_title(title)
        return _png(figure)


def growth(work: Sequence[float], seconds: Mapping[str, Sequence[float]], slopes: Mapping[str, float]) -> bytes:
    """Seconds a step against parameters times tokens, both logarithmic, with each contender's slope."""
    with plt.style.context(["default", STYLE]):
        figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
        for (name, values), color, marker in zip(seconds.items(), (BLUE, ORANGE), "os", strict=True):
            axes.plot(
                work, values, marker, color=color, alpha=0.8, markersize=5, label=f"{name}, slope {slopes[name]:.2f}"
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("parameters x tokens in a step")
        axes.set_ylabel("seconds a step")
        axes.set_title("Cost of a step, d_model 64-256, 2-6 layers, context 32-128, batch 32-128")
        axes.legend()
        return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
