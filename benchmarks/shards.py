"""shard-to-batches on 10^4, 10^5 and 10^6 rows: time and memory, written to ``benchmarks/shards.md``."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine
from minitrain.base import files
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from proofs.project import copy_project

RESULTS = Path("benchmarks/shards.md")
ROWS = (10_000, 100_000, 1_000_000)
# Invented words are longer in tokens than those of the corpus.
PARAMS = {"data.shards": "data/synthetic/shards", "data.manifest": "data/synthetic/MANIFEST.json", "model.context": 64}


RUN = """
from benchmarks.machine import peak_memory
from stages import shard_to_batches
shard_to_batches.main()
print(peak_memory())
"""


def measure(n: int, folder: Path) -> tuple[float, int]:
    """Seconds of the stage as a process, and the peak of its memory in bytes."""
    project = copy_project(folder / str(n), PARAMS)
    make = [sys.executable, "-m", "benchmarks.synthetic_shards", str(n), str(project / "data" / "synthetic")]
    subprocess.run(make, check=True)
    environment = {**os.environ, "PYTHONPATH": f"{project}:{Path().resolve()}"}
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", RUN], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        raise UserError(f"shard-to-batches failed on {n} rows:\n{result.stderr}")
    shutil.rmtree(project)
    return seconds, int(result.stdout.split()[-1])


def main() -> None:
    lines = [
        "# shard-to-batches against the number of rows",
        "",
        f"The stage as a process, on invented verbs (`benchmarks/synthetic_shards.py`), on {machine()}; `make bench`.",
        "",
        "| rows | seconds | peak memory, MB | seconds, of ten times fewer rows |",
        "|---:|---:|---:|---:|",
    ]
    before = None
    with tempfile.TemporaryDirectory() as temporary:
        for n in ROWS:
            seconds, memory = measure(n, Path(temporary))
            times = "" if before is None else f"x {seconds / before:.1f}"
            lines.append(f"| {n:,} | {seconds:.1f} | {memory / 1e6:.0f} | {times} |")
            print(lines[-1], flush=True)
            before = seconds
    files.write_bytes(RESULTS, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    run_command(main)
