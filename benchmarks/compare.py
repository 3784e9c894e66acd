"""This project against PyTorch and JAX: the same weights, the same batches, in the same order.

``make bench`` runs it in an environment of its own, and writes speed.md and speed.png. Before anything is timed, loss
and gradients of the first batch must agree. Each contender lives in a process of its own, and the processes take turns,
so that a machine that gets slower for a while is slower for all.
"""

import io
import itertools
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.machine import commit, machine, measured_code, quiet
from benchmarks.worker import Worker
from benchmarks.workload import Work
from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.figures import BLUE, GREY, in_our_style
from minitrain.params import read_params

FOLDER = Path("benchmarks")
AGREEMENT = 1e-5  # relative, of the loss and of each gradient in Euclidean norm
OURS, NATIVE = "numpy", "numpy-native"
LABELS = {  # of every contender
    "numpy": "this project, exact",
    "numpy-native": "this project, native",
    "torch-eager-1": "PyTorch eager, 1 thread",
    "torch-eager": "PyTorch eager, all threads",
    "torch-eager-packed": "PyTorch eager, packed",
    "torch-compile": "torch.compile",
    "torch-compile-packed": "torch.compile, packed",
    "jax": "JAX jit",
}

WARM_UP = 30  # steps of each before the first is timed
RUNS, ROUNDS, STEPS_A_ROUND = 3, 25, 12
WAKE_UP = 2  # steps at the beginning of a turn that are not counted
N_BATCHES = 200  # what a step computes is an average over so many


def check_agreement(workers: dict[str, Worker], folder: Path) -> float:
    """The largest relative difference of a peer's loss or gradient from ours; UserError beyond AGREEMENT."""
    results, worst = {}, 0.0
    for name, worker in workers.items():
        path = folder / f"{name}.safetensors"
        worker.ask(f"check {path}")
        results[name] = tensors.decode_tensors(files.read_bytes(path), str(path))
    for name, of_peer in results.items():
        for key, ours in results[OURS].items():
            difference = float(np.linalg.norm(of_peer[key] - ours) / np.linalg.norm(ours))
            if not difference <= AGREEMENT:
                raise UserError(f"{name}: {key} differs by {difference:.2g}, more than {AGREEMENT}: other training.")
            worst = max(worst, difference)
    return worst


def in_turn(work: Work) -> tuple[dict[str, np.ndarray], float]:
    """Seconds of each step by contender, and how far they agree."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work.save(folder)
        workers = {name: Worker(name, folder) for name in LABELS}
        agreement = check_agreement(workers, folder)
        for worker in workers.values():
            worker.ask(f"steps {WARM_UP}")
        seconds: dict[str, list[float]] = {name: [] for name in LABELS}
        for _ in range(ROUNDS):
            for name, worker in workers.items():
                seconds[name] += worker.ask(f"steps {WAKE_UP + STEPS_A_ROUND}")[WAKE_UP:]
        for worker in workers.values():
            worker.stop()
    return {name: np.array(values) for name, values in seconds.items()}, agreement


def whole_run(work: Work, name: str) -> tuple[float, float]:
    """Seconds from the start of a fresh process to its last step, and the peak of its memory in MB."""
    with tempfile.TemporaryDirectory() as temporary:
        work.save(Path(temporary))
        worker = Worker(name, Path(temporary))
        worker.ask(f"steps {work.train.steps}")
        seconds = time.perf_counter() - worker.start
        return seconds, worker.stop() / 1e6


def ratio(slower: str, faster: str, seconds: dict[str, np.ndarray]) -> str:
    """How many times as fast: the median over all rounds with its 95 % interval, and the median of each run."""
    rounds = {name: np.median(seconds[name].reshape(RUNS, ROUNDS, -1), axis=2) for name in (slower, faster)}
    ratios = rounds[slower] / rounds[faster]
    half = 0.98 / np.sqrt(ratios.size)  # between these quantiles the true median lies, in 95 of 100 cases
    median, low, high = np.quantile(ratios, (0.5, 0.5 - half, 0.5 + half))
    of_runs = ", ".join(f"{value:.2f}" for value in np.median(ratios, axis=1))
    return f"{median:.2f} times ({low:.2f} to {high:.2f}; by run: {of_runs})"


@in_our_style
def tokens_a_second(quartiles: Mapping[str, Sequence[float]], ours: Sequence[str], title: str) -> bytes:
    """As PNG: a bar for each contender, up to its median, with its quartiles as a line."""
    figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.45 * len(quartiles)), layout="constrained")
    for row, (name, (low, median, high)) in enumerate(quartiles.items()):
        axes.barh(row, median, color=BLUE if name in ours else GREY, height=0.65)
        axes.plot([low, high], [row, row], color="black", linewidth=1)
        axes.annotate(f"{median:,.0f}", (0, row), xytext=(4, -3), textcoords="offset points", color="white")
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(quartiles)), labels=list(quartiles))
    axes.invert_yaxis()
    axes.set(xlabel="real tokens a second (median; line: middle half of the steps)", title=title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def main() -> None:
    """Measure the canonical run, write the table and the picture."""
    params = read_params()
    work = Work(params.model, params.train, read_dataset(BATCHES, params.model).stores["train"])
    with quiet() as others:
        runs = [in_turn(work) for _ in range(RUNS)]
    agreement = max(agreed for _, agreed in runs)
    seconds = {name: np.concatenate([of_run[name] for of_run, _ in runs]) for name in LABELS}
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    eager = min(("torch-eager-1", "torch-eager"), key=median.__getitem__)
    packed = min((name for name in LABELS if name.endswith("packed")), key=median.__getitem__)
    padded = min(median.keys() - {OURS, NATIVE} - {name for name in LABELS if "packed" in name}, key=median.__getitem__)
    whole = {name: whole_run(work, name) for name in (OURS, NATIVE, eager, packed, "torch-compile", "jax")}

    batches = list(itertools.islice(work.batches(), N_BATCHES))
    tokens = sum(np.count_nonzero(batch.targets) for batch in batches) / N_BATCHES
    positions = sum(batch.tokens.size for batch in batches) / N_BATCHES
    first = min(whole.keys() - {OURS, NATIVE}, key=lambda name: whole[name][0])
    smallest = min(whole.keys() - {OURS, NATIVE}, key=lambda name: whole[name][1])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "torch", "jax", "optax"))
    rows = []
    for name, value in median.items():
        of_run = f"{whole[name][0]:.1f} | {whole[name][1]:.0f}" if name in whole else " | "
        rows.append(
            f"| {LABELS[name]} | {1e3 * value:.2f} | {tokens / value:,.0f} "
            f"| {value / median[NATIVE]:.2f} | {value / median[OURS]:.2f} | {of_run} |\n"
        )
    text = f"""# Training speed

The canonical run ({work.train.steps} steps of {work.train.batch_size} sequences, {tokens:.0f} real tokens each, \
{len(work.weights):,} parameters)
on {machine()}. Python {platform.python_version()}, {versions}.
Made by `make bench` at commit {commit()}, measured code {measured_code()}: {RUNS} runs of {ROUNDS * STEPS_A_ROUND} \
steps each, in turn; medians.
Loss and gradients of the first batch agree to {agreement:.1e}. Other processes took {others["while"]:.1%} of the \
cores' time ({others["before"]:.1%} just before).

| | ms a step | real tokens/s | time, native's = 1 | time, exact's = 1 | whole run, s | peak memory, MB |
|---|---:|---:|---:|---:|---:|---:|
{"".join(rows)}
What is compared: each as a competent user would write it, on the same batches. Everything but attention runs over the
{tokens:.0f} real tokens here and in the peers that are packed as this project is; over {positions:.0f} positions in \
PyTorch eager, which pads to
the longest row; over {work.train.batch_size * work.model.context} in torch.compile and JAX, which pad to the context \
so as to compile once. Of torch.compile the
model is compiled, and the optimizer is PyTorch's fused one; of JAX, the whole step.

In brackets: the 95 % interval of the median over {RUNS * ROUNDS} rounds, and the median of each run.

- native against the fastest peer with padding ({LABELS[padded]}): {ratio(padded, NATIVE, seconds)}
- native against the fastest packed peer ({LABELS[packed]}): {ratio(packed, NATIVE, seconds)}
- exact against PyTorch as usually written ({LABELS[eager]}): {ratio(eager, OURS, seconds)}
- exact against the fastest packed peer: {ratio(packed, OURS, seconds)}
- What the same bits on every machine cost, exact against native: {ratio(OURS, NATIVE, seconds)}
- Whole run, process start to last step: {whole[first][0] / whole[NATIVE][0]:.2f} times (native) and \
{whole[first][0] / whole[OURS][0]:.2f} times (exact) as fast as the fastest peer ({LABELS[first]}).
- Peak memory: {whole[OURS][1] / whole[smallest][1]:.2f} of the smallest peer's.
"""
    quartiles = {LABELS[name]: np.quantile(tokens / seconds[name], [0.25, 0.5, 0.75]).tolist() for name in seconds}
    title = f"Training speed, {len(work.weights):,} parameters"
    files.write_bytes(FOLDER / "speed.md", text.encode())
    files.write_bytes(FOLDER / "speed.png", tokens_a_second(quartiles, (LABELS[OURS], LABELS[NATIVE]), title))
    print(text)


if __name__ == "__main__":
    run_command(main)
