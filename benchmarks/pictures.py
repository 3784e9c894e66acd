"""The benchmarks' pictures, as PNG bytes, in the style of minitrain.figures."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from minitrain.figures import BLUE, GREY, ORANGE, in_our_style


@in_our_style
def tokens_a_second(quartiles: Mapping[str, Sequence[float]], ours: Sequence[str], title: str) -> bytes:
    """A bar for each contender, up to its median, with its quartiles as a line."""
    figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.45 * len(quartiles)), layout="constrained")
    for row, (name, (low, median, high)) in enumerate(quartiles.items()):
        axes.barh(row, median, color=BLUE if name in ours else GREY, height=0.65)
        axes.plot([low, high], [row, row], color="black", linewidth=1)
        axes.annotate(f"{median:,.0f}", (0, row), xytext=(4, -3), textcoords="offset points", color="white")
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(quartiles)), labels=list(quartiles))
    axes.invert_yaxis()
    axes.set(xlabel="real tokens a second (median; line: middle half of the steps)", title=title)
    return _png(figure)


@in_our_style
def growth(work: Sequence[float], seconds: Mapping[str, Sequence[float]], slopes: Mapping[str, float]) -> bytes:
    """Seconds a step against parameters times tokens, both logarithmic, with each contender's slope."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for (name, values), color, marker in zip(seconds.items(), (BLUE, ORANGE), "os", strict=True):
        axes.plot(work, values, marker, color=color, alpha=0.8, markersize=5, label=f"{name}, slope {slopes[name]:.2f}")
    axes.set(
        title="Cost of a step, d_model 64-256, 2-6 layers, context 32-128, batch 32-128",
        xlabel="parameters x tokens in a step",
        ylabel="seconds a step",
        xscale="log",
        yscale="log",
    )
    axes.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
