"""The pictures of the ten bugs, as PNG bytes, in the style of minitrain.figures."""

import io

from matplotlib import pyplot as plt

from course.bug_run import Curve
from minitrain.figures import BLUE, RED, in_our_style

AXES = {  # what each curve of course/bug_run.py is
    "training loss": "training loss (nats a token)",
    "validation loss": "validation loss (nats a token)",
    "gradient norm": "gradient norm, before clipping",
    "gradient norm after clipping": "gradient norm, after clipping",
    "change by neighbours": "largest change of a token's loss\nby its batch (nats)",
}


@in_our_style
def two_curves(shows: str, scale: str, right: Curve, wrong: Curve, title: str) -> bytes:
    """The right curve and the one with the bug. ``scale``: linear, log, or difference (each less the right one)."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    label = AXES[shows]
    if scale == "difference":
        base = dict(right)
        right, wrong = ([(step, value - base[step]) for step, value in curve] for curve in (right, wrong))
        label = label.replace(" (", ",\ndifference to the right run (")
    marker = "o" if len(right) < 50 else None
    # The right one in front, so that what the bug adds stands out.
    for curve, color, name, order in ((right, BLUE, "right", 3), (wrong, RED, "with the bug", 2)):
        steps, values = zip(*curve, strict=True)
        text = f"{name} (at the end: {values[-1]:.3g})"
        axes.plot(steps, values, color=color, marker=marker, markersize=3, linewidth=1.1, zorder=order, label=text)
    axes.set(title=title, xlabel="training step", ylabel=label)
    if scale == "log":
        axes.set_yscale("log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
