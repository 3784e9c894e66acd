"""How cost grows with the model and the batch, beside PyTorch: writes ``benchmarks/growth.md`` and ``growth.png``.

Every point of a grid is trained for a few steps by this project and by PyTorch eager on all threads, in
turn. Sequences are random and as long as the context, so that nothing is padding.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import pictures
from benchmarks.compare import LABELS, OURS, Worker
from benchmarks.machine import machine
from benchmarks.workload import Work, make_work, random_store
from minitrain.base import files
from minitrain.base.process import run_command
from minitrain.params import read_params

RESULTS = Path("benchmarks/growth.md")
PICTURE = Path("benchmarks/growth.png")
PEER = "torch-eager"
D_MODEL, N_LAYERS, CONTEXT, BATCH_SIZE = (64, 128, 256), (2, 4, 6), (32, 128), (32, 128)
TOKENS_A_MICROSHARD = 2048  # more do not fit into the cache
ROUNDS = 3


class Point(NamedTuple):
    """One point of the grid and the median seconds a step of each contender."""

    d_model: int
    n_layers: int
    context: int
    batch_size: int
    n_parameters: int
    seconds: dict[str, float]

    @property
    def size(self) -> float:
        return self.n_parameters * self.context * self.batch_size


def points() -> Iterator[tuple[tuple[int, int, int, int], Work]]:
    """The grid, and the workload at each point."""
    params = read_params()
    for d_model, n_layers, context, batch_size in itertools.product(D_MODEL, N_LAYERS, CONTEXT, BATCH_SIZE):
        microshards = max(params.train.microshards, context * batch_size // TOKENS_A_MICROSHARD)
        train = dataclasses.replace(params.train, batch_size=batch_size, microshards=microshards)
        sizes = {"d_model": d_model, "n_layers": n_layers, "d_ff": 4 * d_model, "context": context}
        model = dataclasses.replace(params.model, **sizes)
        store = random_store(4 * batch_size, context + 1, model.vocab_size)
        yield (d_model, n_layers, context, batch_size), make_work(model, train, store)


def measure(work: Work, folder: Path) -> dict[str, float]:
    """Median seconds a step of both contenders, a few steps each in turn."""
    path = folder / "work.safetensors"
    work.save(path)
    workers = {name: Worker(name, path) for name in (OURS, PEER)}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for worker in workers.values():
        worker.ask("steps 2")
    steps = max(1, min(10, int(2e10 / (len(work.weights) * work.model.context * work.train.batch_size))))
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            seconds[name] += worker.ask(f"steps {steps}")
    for worker in workers.values():
        worker.stop()
    return {name: float(np.median(values)) for name, values in seconds.items()}


def slope(grid: list[Point], name: str) -> float:
    """The exponent p of seconds ~ (parameters x tokens)^p, by least squares over the grid."""
    work = np.log([point.size for point in grid])
    return float(np.polyfit(work, np.log([point.seconds[name] for point in grid]), 1)[0])


def report(grid: list[Point], slopes: dict[str, float]) -> str:
    """The table, in Markdown."""
    largest = [point for point in grid if (point.d_model, point.n_layers, point.context) == (256, 6, 128)]
    lines = [
        "# Cost against size",
        "",
        f"Milliseconds a step on {machine()}; `make bench`. Cost grows with (parameters x tokens) to the power of "
        + " and ".join(f"{slopes[name]:.2f} ({LABELS[name]})" for name in slopes)
        + ".",
        "At the largest model, "
        + ", ".join(
            f"batch {point.batch_size}: {point.seconds[PEER] / point.seconds[OURS]:.2f} times as fast as PyTorch"
            for point in largest
        )
        + ".",
        f"Nothing is padding here. Ours cuts a batch into microshards of {TOKENS_A_MICROSHARD} tokens, at least two.",
        "",
        f"| d_model | layers | context | batch | parameters | {LABELS[OURS]} | {LABELS[PEER]} | ours is faster by |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {point.d_model} | {point.n_layers} | {point.context} | {point.batch_size} | {point.n_parameters:,} "
        f"| {1e3 * point.seconds[OURS]:.1f} | {1e3 * point.seconds[PEER]:.1f} "
        f"| {point.seconds[PEER] / point.seconds[OURS]:.2f} x |"
        for point in grid
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    grid = []
    with tempfile.TemporaryDirectory() as temporary:
        for sizes, work in points():
            grid.append(Point(*sizes, len(work.weights), measure(work, Path(temporary))))
            print(f"\r{len(grid)} points", end="", flush=True)
    print()
    slopes = {name: slope(grid, name) for name in (OURS, PEER)}
    text = report(grid, slopes)
    files.write_bytes(RESULTS, text.encode())
    seconds = {LABELS[name]: [point.seconds[name] for point in grid] for name in (OURS, PEER)}
    labelled = {LABELS[name]: value for name, value in slopes.items()}
    files.write_bytes(PICTURE, pictures.growth([point.size for point in grid], seconds, labelled))
    print(text)


if __name__ == "__main__":
    run_command(main)
