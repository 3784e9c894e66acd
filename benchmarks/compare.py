"""This project against PyTorch and JAX on the canonical run: the same weights, the same batches, in the same order.

``make bench`` runs it in an environment of its own and writes ``benchmarks/speed.md`` and
``benchmarks/speed.png``. Before anything is timed, loss and gradients of the first batch must agree.
Each contender lives in a process of its own, and the processes take turns, so that a machine that gets
slower for a while is slower for all.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pictures
from benchmarks.machine import machine
from benchmarks.worker import CONTENDERS
from benchmarks.workload import Work, make_work
from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params

RESULTS = Path("benchmarks/speed.md")
PICTURE = Path("benchmarks/speed.png")
AGREEMENT = 1e-5  # relative, of the loss and of each gradient in Euclidean norm
WARM_UP = 30  # steps of each before the first is timed
ROUNDS, STEPS_A_ROUND = 25, 12
OURS = "numpy"
LABELS = {
    "numpy": "this project (NumPy)",
    "torch-eager-1": "PyTorch eager, 1 thread",
    "torch-eager": "PyTorch eager, all threads",
    "torch-compile": "torch.compile",
    "jax": "JAX jit",
}


class Worker:
    """A contender's process, see benchmarks.worker."""

    def __init__(self, name: str, work: Path) -> None:
        self.name = name
        # A compiler's cache of an earlier run would hide what compiling costs.
        self.cache = tempfile.TemporaryDirectory()
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would fill up)
        self.start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": self.cache.name},
        )

    def ask(self, command: str) -> Any:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise UserError(f"{self.name} ended:\n{self.errors.read()[-2000:]}")
        return json.loads(answer)

    def stop(self) -> None:
        """End the process and forget its cache."""
        self.process.communicate()
        self.errors.close()
        self.cache.cleanup()


def check_agreement(workers: dict[str, Worker], folder: Path) -> dict[str, float]:
    """The largest relative difference of each peer's loss and gradients from ours; UserError beyond AGREEMENT."""
    results = {}
    for name, worker in workers.items():
        path = folder / f"{name}.safetensors"
        worker.ask(f"check {path}")
        results[name] = tensors.decode_tensors(files.read_bytes(path), str(path))
    ours = results[OURS]
    worst = {}
    for name in workers.keys() - {OURS}:
        different = {
            key: float(np.linalg.norm(results[name][key] - ours[key]) / np.linalg.norm(ours[key])) for key in ours
        }
        worst[name] = max(different.values())
        for key, difference in different.items():
            if not difference <= AGREEMENT:
                raise UserError(
                    f"{name}: {key} differs by {difference:.2g}, more than {AGREEMENT}: not the same training."
                )
    return worst


def sgemm_rate(seconds: float) -> float:
    """Floating-point operations a second of NumPy's float32 products, one on each core at a time, as in training."""
    n_threads, size = len(os.sched_getaffinity(0)), 768
    done = [0] * n_threads
    end = time.perf_counter() + seconds

    def multiply(index: int) -> None:
        a = np.ones((size, size), np.float32)
        out = np.empty_like(a)
        while time.perf_counter() < end:
            np.matmul(a, a, out=out)
            done[index] += 1

    start = time.perf_counter()
    threads = [threading.Thread(target=multiply, args=(index,)) for index in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 2 * size**3 * sum(done) / (time.perf_counter() - start)


def product_flops(work: Work, n_batches: int) -> float:
    """Floating-point operations of a step's matrix products, on real tokens alone, averaged over batches."""
    C, L, d_ff = work.model.d_model, work.model.n_layers, work.model.d_ff
    total = 0
    for batch in itertools.islice(work.batches(), n_batches):
        lengths = np.count_nonzero(batch.targets, axis=1)
        linear = L * (4 * C * C + 2 * C * d_ff) + work.model.vocab_size * C
        total += 6 * int(lengths.sum()) * linear  # 2 forward, 4 backward for each weight and token
        total += 12 * L * C * int((lengths**2).sum())  # q k and probs v: 4 T^2 C forward, 8 backward
    return total / n_batches


def interleaved(workers: dict[str, Worker]) -> tuple[dict[str, np.ndarray], float]:
    """Seconds of each step by contender, and the sgemm rate, all measured in turn."""
    for worker in workers.values():
        worker.ask(f"steps {WARM_UP}")
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    rates = []
    for round_ in range(ROUNDS):
        for name, worker in workers.items():
            worker.ask("steps 2")  # wakes it up
            seconds[name] += worker.ask(f"steps {STEPS_A_ROUND}")
        rates.append(sgemm_rate(0.1))
        print(f"\rround {round_ + 1} of {ROUNDS}", end="", flush=True)
    print()
    return {name: np.array(values) for name, values in seconds.items()}, float(np.median(rates))


def whole_run(name: str, work: Path, steps: int) -> tuple[float, int]:
    """Seconds from the start of a fresh process to its last step, and the peak of its memory in bytes."""
    worker = Worker(name, work)
    worker.ask(f"steps {steps}")
    seconds = time.perf_counter() - worker.start
    memory = int(worker.ask("memory"))
    worker.stop()
    return seconds, memory


def report(
    work: Work,
    seconds: dict[str, np.ndarray],
    rate: float,
    whole: dict[str, tuple[float, int]],
    agreement: dict[str, float],
) -> str:
    """The table, in Markdown."""
    tokens = work.real_tokens(200) / 200
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    fastest = min((name for name in median if name != OURS), key=lambda name: median[name])
    roofline = product_flops(work, 200) / rate
    peers = {name: of for name, of in whole.items() if name != OURS}
    first = min(peers, key=lambda name: peers[name][0])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "torch", "jax", "optax"))
    lines = [
        "# Training speed",
        "",
        f"The canonical run ({work.train.steps} steps of {work.train.batch_size} sequences, {tokens:.0f} real tokens "
        f"each, {len(work.weights):,} parameters)",
        f"on {machine()}. Python {platform.python_version()}, {versions}.",
        f"Made by `make bench`: {ROUNDS * STEPS_A_ROUND} steps each, in turn; medians. Loss and gradients of the first "
        f"batch agree to {max(agreement.values()):.1e}.",
        "",
        "| | ms a step | steps/s | real tokens/s | ours is faster by | whole run, s | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, value in median.items():
        of_run = f"{whole[name][0]:.1f} | {whole[name][1] / 1e6:.0f}" if name in whole else " | "
        lines.append(
            f"| {LABELS[name]} | {1e3 * value:.2f} | {1 / value:.1f} | {tokens / value:,.0f} "
            f"| {value / median[OURS]:.2f} x | {of_run} |"
        )
    positions = sum(batch.tokens.size for batch in itertools.islice(work.batches(), 200)) / 200
    padded = work.train.batch_size * work.model.context
    lines += [
        "",
        "What is compared: each as a competent user would write it, on the same batches. Everything but attention",
        f"runs over the {tokens:.0f} real tokens here, over {positions:.0f} positions in PyTorch eager, which pads to",
        f"the longest row, and over {padded} in torch.compile and JAX, which pad to the context so as to compile once.",
        "Of torch.compile the model is compiled, and the optimizer is PyTorch's fused one; of JAX, the whole step.",
        "",
        f"- Real tokens a second: {median[fastest] / median[OURS]:.2f} times the fastest peer ({LABELS[fastest]}).",
        f"- Roofline: the matrix products of a step alone, at the {rate / 1e9:.0f} GFLOP/s that NumPy's sgemm reached",
        f"  in the same run on all cores, take {1e3 * roofline:.2f} ms: {100 * roofline / median[OURS]:.0f} % of ours.",
        f"- Whole run, process start to last step: {peers[first][0] / whole[OURS][0]:.2f} times faster than the "
        f"fastest peer ({LABELS[first]}).",
        f"- Peak memory: {whole[OURS][1] / min(of[1] for of in peers.values()):.2f} of the smallest peer's.",
    ]
    return "\n".join(lines) + "\n"


def picture(work: Work, seconds: dict[str, np.ndarray]) -> bytes:
    """Real tokens a second of each contender, as PNG."""
    tokens = work.real_tokens(200) / 200
    quartiles = {
        LABELS[name]: np.quantile(tokens / values, [0.25, 0.5, 0.75]).tolist() for name, values in seconds.items()
    }
    return pictures.tokens_a_second(quartiles, LABELS[OURS], f"Training speed, {len(work.weights):,} parameters")


def main() -> None:
    params = read_params()
    work = make_work(params.model, params.train, read_dataset(BATCHES, params.model).stores["train"])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "work.safetensors"
        work.save(path)
        workers = {name: Worker(name, path) for name in CONTENDERS}
        agreement = check_agreement(workers, Path(temporary))
        print("loss and gradients agree: " + ", ".join(f"{name} {value:.1e}" for name, value in agreement.items()))
        seconds, rate = interleaved(workers)
        for worker in workers.values():
            worker.stop()
        # Of PyTorch eager, the better one of 1 and all threads.
        eager = min(("torch-eager-1", "torch-eager"), key=lambda name: float(np.median(seconds[name])))
        whole = {name: whole_run(name, path, params.train.steps) for name in (OURS, eager, "torch-compile", "jax")}
    text = report(work, seconds, rate, whole, agreement)
    files.write_bytes(RESULTS, text.encode())
    files.write_bytes(PICTURE, picture(work, seconds))
    print(text)


if __name__ == "__main__":
    run_command(main)
