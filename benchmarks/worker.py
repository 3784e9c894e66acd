"""One contender in a process of its own, told what to do line by line: so only one runs at a time.

    python -m benchmarks.worker NAME WORK

Each line on standard input is a command, each answer a line of JSON: ``steps N`` gives the seconds of
each of N steps, ``check FILE`` writes loss and gradients of the first batch to FILE, ``memory`` gives
the peak in bytes.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import peak_memory
from benchmarks.workload import Contender, Work
from minitrain.base import files, tensors
from minitrain.base.process import keep_freed_memory

CONTENDERS = ("numpy", "torch-eager-1", "torch-eager", "torch-compile", "jax")


def build(name: str, work: Work) -> Contender:
    """The contender of this name. Imports only what it needs."""
    if name == "numpy":
        from benchmarks.contenders import numpy_

        return numpy_.build(work)
    if name == "jax":
        from benchmarks.contenders import jax_

        return jax_.build(work)
    from benchmarks.contenders import torch_

    threads = 1 if name.endswith("-1") else len(os.sched_getaffinity(0))
    return torch_.build(work, threads, compiled="compile" in name)


def main() -> None:
    keep_freed_memory()  # for all: whoever takes memory from the C library gains by it
    contender = build(sys.argv[1], Work.load(Path(sys.argv[2])))
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        answer: float | list[float]
        if command == "steps":
            seconds = []
            for _ in range(int(argument)):
                start = time.perf_counter()
                contender.step()
                seconds.append(time.perf_counter() - start)
            answer = seconds
        elif command == "check":
            loss, grads = contender.loss_and_grads()
            files.write_bytes(Path(argument), tensors.encode_tensors({**grads, "loss": np.asarray(loss)}))
            answer = loss
        else:
            answer = peak_memory()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
