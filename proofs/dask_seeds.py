"""Seeds trained by two Dask workers on loopback, one of which is killed at work: the results are those of a run without
Dask, to the last bit.

Negative control: a worker whose code differs in one place gives other numbers.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

from distributed import Client

from benchmarks import seeds
from minitrain.base import UserError, process
from minitrain.corpus.shards import read_corpus
from minitrain.params import read_params
from proofs.project import ROOT, copy_project
from proofs.servers import free_port, started

SEEDS = range(18, 22)
STEPS = {"steps": 24, "warmup_steps": 5, "eval_every": 8, "checkpoint_every": 10}


@contextlib.contextmanager
def cluster(folder: Path, code: Path, workers: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Popen[bytes]]]]:
    """A scheduler, and workers of one thread each, with the code in a folder: its address, their processes by name."""
    address, log = f"tcp://127.0.0.1:{free_port()}", folder / "dask.log"
    scheduler = [sys.executable, "-m", "dask", "scheduler", "--no-dashboard", "--no-show"]
    worker = [sys.executable, "-m", "dask", "worker", address, "--nthreads", "1", "--no-dashboard"]
    worker += ["--no-nanny", "--local-directory", str(folder)]  # a nanny would start it again
    with contextlib.ExitStack() as stack:
        port = address.rpartition(":")[2]
        stack.enter_context(started(code, log, *scheduler, "--host", "127.0.0.1", "--port", port))
        yield address, {name: stack.enter_context(started(code, log, *worker, "--name", name)) for name in workers}


def kill_one_at_work(address: str, workers: dict[str, Popen[bytes]]) -> str:
    """SIGKILL to a worker that has a seed to train; its name."""
    with Client(address) as client:
        at_work = [worker for worker, tasks in client.processing().items() if tasks]
        name = str(client.scheduler_info()["workers"][at_work[0]]["name"])
    os.killpg(workers[name].pid, signal.SIGKILL)
    return name


def main() -> None:
    os.chdir(ROOT)
    params = read_params()
    params = dataclasses.replace(params, train=dataclasses.replace(params.train, **STEPS))
    corpus = read_corpus(Path(params.data.shards), Path(params.data.manifest))
    expected = dict(seeds.run_seeds(params, corpus, SEEDS))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        with cluster(folder, ROOT, ("first", "second")) as (address, workers):
            got: dict[int, dict[str, float]] = {}
            for seed, result in seeds.run_seeds(params, corpus, SEEDS, address):
                if not got:
                    killed = kill_one_at_work(address, workers)
                got[seed] = result
        if got != expected or workers[killed].returncode != -signal.SIGKILL:
            raise UserError(f"expected {expected} although {killed} was killed, got {got}")
        print(f"{len(got)} seeds by two workers, the {killed} killed at work: equal to those without Dask", flush=True)

        other = copy_project(folder / "other")
        for name in ("benchmarks", "course"):
            shutil.copytree(ROOT / name, other / name)
        script = other / "benchmarks/seeds.py"
        script.write_text(script.read_text().replace("params.train, seed=seed", "params.train, seed=seed + 1"))
        with cluster(folder, other, ("other",)) as (address, _):
            if dict(seeds.run_seeds(params, corpus, SEEDS[:1], address))[18] == expected[18]:
                raise UserError("the proof does not hold: a worker with other code was not noticed")
        print("negative control: noticed: a worker with other code")


if __name__ == "__main__":
    process.run_command(main)
