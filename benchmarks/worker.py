"""One contender in a process of its own, told what to do line by line: so only one runs at a time.

    python -m benchmarks.worker NAME FOLDER

builds the contender for the workload in FOLDER. Each line on standard input is then a command, each answer a line of
JSON: ``steps N`` takes N steps and gives the seconds of each, ``check FILE`` writes loss and gradients of the first
batch to FILE and gives none. After the last command it says how many bytes of memory it had at its peak. ``Worker`` is
the other end.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import peak_memory
from benchmarks.workload import Work
from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from minitrain.base.process import keep_freed_memory


class Worker:
    """The process of a contender, as its parent sees it. It ends with its parent at the latest."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.start = time.perf_counter()
        # A compiler's cache of an earlier run would hide what compiling costs; of a process that outlives a compiler,
        # nobody could account for the time.
        inductor = {"TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=folder), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.worker", name, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **inductor}
        )

    def ask(self, command: str) -> list[float]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            raise UserError(f"the process of {self.name} ended; what it said stands above.")
        return json.loads(answer)

    def stop(self) -> int:
        """No command any more: the process ends. The peak of its memory in bytes."""
        peak, _ = self.process.communicate()
        return int(peak)


def main() -> None:
    keep_freed_memory()  # for all: whoever takes memory from the C library gains by it
    sys.setswitchinterval(1e-6)  # and whoever runs Python on several threads, by this
    # The variant eager of contenders/torch_.py is called torch-eager. Only what it needs is imported.
    module, _, variant = sys.argv[1].partition("-")
    build = importlib.import_module(f"benchmarks.contenders.{module}_").build
    contender = build(Work.load(Path(sys.argv[2])), variant)
    for line in sys.stdin:
        command, argument = line.split()
        seconds = []
        if command == "check":
            files.write_bytes(Path(argument), tensors.encode_tensors(contender.loss_and_grads()))
        else:
            for _ in range(int(argument)):
                start = time.perf_counter()
                contender.step()
                seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)
    print(peak_memory())


if __name__ == "__main__":
    main()
