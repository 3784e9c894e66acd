"""What a benchmark says of the machine and of the code, and asks of the system."""

import ast
import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course.mutants import spelled, without_docstrings
from minitrain.base.errors import UserError

# What decides how fast the loop and its peers are.
MEASURED = (
    *("minitrain/minitorch", "minitrain/loop.py", "minitrain/model.py", "minitrain/dataset/batches.py"),
    *("minitrain/training/state.py", "benchmarks/contenders"),
)
OTHERS_AT_MOST = 0.05  # of the cores' time, for a figure that is worth writing down


def machine() -> str:
    """The processor's name and the number of cores that may be used."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].partition(': ')[2] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """The commit that is measured, marked if code or parameters are not as it has them."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py", "params.yaml"], check=False).returncode
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    return f"`{head.strip()}`{', changed' if changed else ''}"


def measured_code() -> str:
    """A digest of the code that a figure is about, without docstrings and comments."""
    paths = sorted(
        path for name in MEASURED for path in ([Path(name)] if name.endswith(".py") else Path(name).glob("*.py"))
    )
    trees = "".join(spelled(without_docstrings(ast.parse(path.read_text()))) for path in paths)
    return hashlib.sha256(trees.encode()).hexdigest()[:16]


@contextmanager
def quiet() -> Iterator[dict[str, float]]:
    """Around a measurement: how much of the cores' time other processes took, in a dictionary once it is over.

    Raises UserError above OTHERS_AT_MOST, for the seconds before as well. Processes that we started must have ended.
    """
    shares: dict[str, float] = {}
    for when in ("before", "while"):
        start, busy, own = time.perf_counter(), busy_seconds(), own_seconds()
        if when == "before":
            time.sleep(3)
        else:
            yield shares
        elapsed = (time.perf_counter() - start) * (os.cpu_count() or 1)
        shares[when] = max(0.0, (busy_seconds() - busy) - (own_seconds() - own)) / elapsed
        if shares[when] > OTHERS_AT_MOST:
            raise UserError(
                f"{when} measuring, other processes took {shares[when]:.0%} of the cores' time; expected at most "
                f"{OTHERS_AT_MOST:.0%}. Measure on a quiet machine."
            )


def busy_seconds() -> float:
    """How long all cores together have worked since the start, for whom ever (Linux)."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """How long they have worked for this process and for its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_memory() -> int:
    """The most memory that this process has had, in bytes. (What wait4 tells of a child includes its parent's.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
