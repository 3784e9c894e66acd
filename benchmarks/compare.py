"""This project against PyTorch and JAX: the same weights, the same batches, in the same order.

    python -m benchmarks.compare speed     the canonical run, all contenders: benchmarks/speed.md and speed.png
    python -m benchmarks.compare growth    models and batches of many sizes, ours and PyTorch: growth.md and growth.png

``make bench`` runs both in an environment of its own. Before anything is timed, loss and gradients of the first batch
must agree. Each contender lives in a process of its own, and the processes take turns, so that a machine that gets
slower for a while is slower for all.
"""

import argparse
import dataclasses
import itertools
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks import pictures
from benchmarks.machine import commit, machine, measured_code, quiet
from benchmarks.worker import Worker
from benchmarks.workload import Work
from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS, EOS
from minitrain.params import ModelConfig, read_params

FOLDER = Path("benchmarks")
AGREEMENT = 1e-5  # relative, of the loss and of each gradient in Euclidean norm
OURS, NATIVE, PEER = "numpy", "numpy-native", "torch-eager"
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

# Of the canonical run
WARM_UP = 30  # steps of each before the first is timed
RUNS, ROUNDS, STEPS_A_ROUND = 3, 25, 12
WAKE_UP = 2  # steps at the beginning of a turn that are not counted
N_BATCHES = 200  # what a step computes is an average over so many

# Of growth
D_MODEL, N_LAYERS, CONTEXT, BATCH_SIZE = (64, 128, 256), (2, 4, 6), (32, 128), (32, 128)
TOKENS_A_MICROSHARD = 2048  # more do not fit into the cache
GROWTH_ROUNDS = 3
WORK_A_TURN = 2e10  # parameters x tokens of a turn: the smaller the model, the more steps, up to ten


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


def in_turn(
    work: Work, names: tuple[str, ...], *, warm_up: int, rounds: int, wake_up: int, steps: int
) -> tuple[dict[str, np.ndarray], float]:
    """Seconds of each step by contender, and how far they agree. ``warm_up`` steps of each, and ``wake_up`` more at the
    beginning of every turn, are not counted.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work.save(folder)
        workers = {name: Worker(name, folder) for name in names}
        agreement = check_agreement(workers, folder)
        for worker in workers.values():
            worker.ask(f"steps {warm_up}")
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name] += worker.ask(f"steps {wake_up + steps}")[wake_up:]
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


def sgemm_rate() -> float:
    """Floating-point operations a second of NumPy's float32 products, one on each core at a time, as in training."""
    size, times, n_threads = 768, 200, len(os.sched_getaffinity(0))

    def multiply(a: np.ndarray) -> None:
        for _ in range(times):
            np.matmul(a[0], a[1], out=a[2])

    operands = [np.ones((3, size, size), np.float32) for _ in range(n_threads)]
    start = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(multiply, operands))
    return n_threads * times * 2 * size**3 / (time.perf_counter() - start)


def product_flops(model: ModelConfig, lengths: np.ndarray) -> int:
    """Floating-point operations of the matrix products over sequences of so many targets, forward and backward."""
    C, L, d_ff = model.d_model, model.n_layers, model.d_ff
    weights = L * (4 * C * C + 2 * C * d_ff) + model.vocab_size * C
    # 2 forward and 4 backward for each weight and token; q k and probs v: 4 T^2 C forward, 8 backward
    return 6 * int(lengths.sum()) * weights + 12 * L * C * int((lengths**2).sum())


def ratio(slower: str, faster: str, seconds: dict[str, np.ndarray]) -> str:
    """How many times as fast: the median over all rounds with its 95 % interval, and the median of each run."""
    rounds = {name: np.median(seconds[name].reshape(RUNS, ROUNDS, -1), axis=2) for name in (slower, faster)}
    ratios = rounds[slower] / rounds[faster]
    half = 0.98 / np.sqrt(ratios.size)  # between these quantiles the true median lies, in 95 of 100 cases
    median, low, high = np.quantile(ratios, (0.5, 0.5 - half, 0.5 + half))
    of_runs = ", ".join(f"{value:.2f}" for value in np.median(ratios, axis=1))
    return f"{median:.2f} times ({low:.2f} to {high:.2f}; by run: {of_runs})"


def speed() -> None:
    """Measure the canonical run, write the table and the picture."""
    params = read_params()
    work = Work(params.model, params.train, read_dataset(BATCHES, params.model).stores["train"])
    turns = {"warm_up": WARM_UP, "rounds": ROUNDS, "wake_up": WAKE_UP, "steps": STEPS_A_ROUND}
    with quiet() as others:
        runs = [in_turn(work, tuple(LABELS), **turns) for _ in range(RUNS)]
        rate = sgemm_rate()
    agreement = max(agreed for _, agreed in runs)
    seconds = {name: np.concatenate([of_run[name] for of_run, _ in runs]) for name in LABELS}
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    eager = min(("torch-eager-1", "torch-eager"), key=median.__getitem__)
    packed = min((name for name in LABELS if name.endswith("packed")), key=median.__getitem__)
    padded = min(median.keys() - {OURS, NATIVE} - {name for name in LABELS if "packed" in name}, key=median.__getitem__)
    whole = {name: whole_run(work, name) for name in (OURS, NATIVE, eager, packed, "torch-compile", "jax")}

    batches = list(itertools.islice(work.batches(), N_BATCHES))
    lengths = np.concatenate([np.count_nonzero(batch.targets, axis=1) for batch in batches])
    tokens = float(lengths.sum()) / N_BATCHES
    positions = sum(batch.tokens.size for batch in batches) / N_BATCHES
    products = product_flops(work.model, lengths) / N_BATCHES / rate
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
- Roofline: the matrix products of a step alone, at the {rate / 1e9:.0f} GFLOP/s that NumPy's sgemm reached in the same
  run on all cores, take {1e3 * products:.2f} ms: {100 * products / median[NATIVE]:.0f} % of native's step.
- Whole run, process start to last step: {whole[first][0] / whole[NATIVE][0]:.2f} times (native) and \
{whole[first][0] / whole[OURS][0]:.2f} times (exact) as fast as the fastest peer ({LABELS[first]}).
- Peak memory: {whole[OURS][1] / whole[smallest][1]:.2f} of the smallest peer's.
"""
    quartiles = {LABELS[name]: np.quantile(tokens / seconds[name], [0.25, 0.5, 0.75]).tolist() for name in seconds}
    title = f"Training speed, {len(work.weights):,} parameters"
    files.write_bytes(FOLDER / "speed.md", text.encode())
    files.write_bytes(FOLDER / "speed.png", pictures.tokens_a_second(quartiles, (LABELS[OURS], LABELS[NATIVE]), title))
    print(text)


def growth() -> None:
    """Measure a few steps at each point of a grid of sizes, write the table and the picture."""
    sizes, medians, rows = [], [], []
    for d_model, n_layers, context, batch_size in itertools.product(D_MODEL, N_LAYERS, CONTEXT, BATCH_SIZE):
        work = sized_work(d_model, n_layers, context, batch_size)
        sizes.append(len(work.weights) * context * batch_size)
        steps = max(1, min(10, int(WORK_A_TURN / sizes[-1])))
        seconds, _ = in_turn(work, (OURS, PEER), warm_up=2, rounds=GROWTH_ROUNDS, wake_up=0, steps=steps)
        ours, peer = float(np.median(seconds[OURS])), float(np.median(seconds[PEER]))
        medians.append((ours, peer))
        rows.append(
            f"| {d_model} | {n_layers} | {context} | {batch_size} | {len(work.weights):,} "
            f"| {1e3 * ours:.1f} | {1e3 * peer:.1f} | {peer / ours:.2f} x |\n"
        )
        print(rows[-1], end="")
    curves = dict(zip((LABELS[OURS], LABELS[PEER]), zip(*medians, strict=True), strict=True))
    # The exponent p of seconds ~ (parameters x tokens)^p, by least squares over the grid.
    slopes = {name: float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) for name, values in curves.items()}
    largest = ", ".join(  # the last points of the grid
        f"batch {batch_size}: {peer / ours:.2f} times as fast as PyTorch"
        for batch_size, (ours, peer) in zip(BATCH_SIZE, medians[-len(BATCH_SIZE) :], strict=True)
    )
    text = f"""# Cost against size

Milliseconds a step on {machine()}; `make bench` at commit {commit()}. Cost grows with (parameters x tokens) to the \
power of {" and ".join(f"{slope:.2f} ({name})" for name, slope in slopes.items())}.
At the largest model, {largest}.
Nothing is padding here. Ours cuts a batch into microshards of {TOKENS_A_MICROSHARD} tokens, or at least into two.

| d_model | layers | context | batch | parameters | {LABELS[OURS]} | {LABELS[PEER]} | ours is faster by |
|---:|---:|---:|---:|---:|---:|---:|---:|
{"".join(rows)}"""
    files.write_bytes(FOLDER / "growth.md", text.encode())
    files.write_bytes(FOLDER / "growth.png", pictures.growth(sizes, curves, slopes))


def sized_work(d_model: int, n_layers: int, context: int, batch_size: int) -> Work:
    """A workload of this size. Sequences are random and as long as the context, so that nothing is padding."""
    params = read_params()
    microshards = max(params.train.microshards, context * batch_size // TOKENS_A_MICROSHARD)
    train = dataclasses.replace(params.train, batch_size=batch_size, microshards=microshards)
    model = dataclasses.replace(params.model, d_model=d_model, n_layers=n_layers, d_ff=4 * d_model, context=context)
    n, length = 4 * batch_size, context + 1
    tokens = np.random.Generator(np.random.PCG64(0)).integers(4, model.vocab_size, (n, length)).astype(np.uint16)
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    offsets, cell, direction = np.arange(n + 1) * length, np.arange(n, dtype=np.int32), np.zeros(n, np.uint8)
    return Work(model, train, TokenStore(tokens.reshape(-1), offsets, cell, direction))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Ours against PyTorch and JAX.")
    parser.add_argument("what", choices=("speed", "growth"), help="the canonical run, or cost against size")
    {"speed": speed, "growth": growth}[parser.parse_args().what]()


if __name__ == "__main__":
    run_command(main)
