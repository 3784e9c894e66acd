"""Repeat the pipeline of any DVC project under other circumstances: which outputs come out different?

    python -m proofs.repeat DIR

What Debian's reprotest is for packages: the last commit is cloned and run from nothing once as it is, then in a fresh
clone under each of CIRCUMSTANCES, and killed at several moments and run again. Outputs are compared by the hashes that
DVC writes to dvc.lock. An output is blamed on its stage only if all that the stage depends on was the same. Ends with 1
if anything was not reproduced. Works with the ``dvc`` of its own environment; needs Linux for the number of cores.

What only Python programs see: the order of files, the hash seed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from minitrain.base import UserError
from minitrain.base.process import run_command
from proofs.project import DVC, must_run

SHIMS = Path(__file__).resolve().parent / "shims"
KILLED_AFTER = (0.2, 0.4, 0.6, 0.8)  # of the time that the first run took

Stage = dict[str, dict[str, str]]  # the hashes of what it depends on ("deps") and of what it leaves ("outs"), by path
Stages = dict[str, Stage]  # by name, with the folder of its dvc.yaml where that is not the project's


class Circumstance(NamedTuple):
    """One way in which a run may differ from the first one without being another run."""

    name: str
    environment: Mapping[str, str] = {}
    set_up: Callable[[], object] = lambda: None  # called in the new process
    folder: str = "project"


def one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


AGAIN = "the same again"
CIRCUMSTANCES = (
    Circumstance(AGAIN),
    # 26 hours apart, so the date is another one too.
    Circumstance("time zone, far west", {"TZ": "Etc/GMT+12"}),
    Circumstance("time zone, far east", {"TZ": "Etc/GMT-14"}),
    Circumstance("locale", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Circumstance("path", folder="another folder/with a longer name/project"),
    Circumstance("home and user", {"HOME": "{empty}", "USER": "somebody", "LOGNAME": "somebody"}),
    Circumstance("umask", set_up=lambda: os.umask(0o077)),
    Circumstance("hash seed", {"PYTHONHASHSEED": "12345"}),
    Circumstance("number of cores", set_up=one_core),
    Circumstance("order of files", {"PYTHONPATH": str(SHIMS / "file_order")}),
    Circumstance("kernels of the BLAS", {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}),
)


def clone(project: Path, target: Path) -> Path:
    """The last commit of a project without results: dvc.lock is removed, tracked data is pulled from its cache."""
    target.parent.mkdir(parents=True, exist_ok=True)
    must_run(target.parent, "git", "clone", "--quiet", str(project), str(target))
    inputs = [path for path in tracked(target, "*.dvc") if "outs" in read(target / path)]
    for path in tracked(target, "*dvc.lock"):
        (target / path).unlink()
    if inputs:
        cache = must_run(project, *DVC, "cache", "dir").strip()
        must_run(target, *DVC, "remote", "add", "--local", "--force", "repeated", cache)
        must_run(target, *DVC, "pull", "--quiet", "--remote", "repeated", *inputs)
    return target


def tracked(project: Path, pattern: str) -> list[str]:
    """The paths of the files of a commit that match."""
    return must_run(project, "git", "ls-files", "-z", "--", pattern).split("\0")[:-1]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def run(project: Path, circumstance: Circumstance, kill_after: float | None = None) -> str:
    """``dvc repro`` of all pipelines of a project; with ``kill_after``, SIGKILL for all its processes after so many
    seconds. What it said if a stage failed: the others ran all the same.
    """
    with tempfile.TemporaryDirectory() as empty:
        environment = {name: value.format(empty=empty) for name, value in circumstance.environment.items()}
        process = subprocess.Popen(
            [*DVC, "repro", "--all-pipelines", "--no-run-cache", "--keep-going"],
            cwd=project,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=circumstance.set_up,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        return said if process.returncode else ""


def stages_of(project: Path) -> Stages:
    """What each stage read and left, from every dvc.lock."""
    stages: Stages = {}
    for lock in sorted(project.rglob("dvc.lock")):
        folder = lock.parent.relative_to(project).as_posix()
        for name, entry in read(lock).get("stages", {}).items():
            hashes = {
                kind: {item["path"]: str(item.get("md5", "none")) for item in entry.get(kind, [])}
                for kind in ("deps", "outs")
            }
            stages[name if folder == "." else f"{folder}/{name}"] = hashes
    return stages


def not_reproduced(first: Stages, again: Stages) -> tuple[dict[str, list[str]], list[str]]:
    """Who is to blame: of each stage that read the same, the outputs that differ; stages that did not end; and inputs
    that no stage made, such as a folder of code with what Python leaves there. Then the stages that only read something
    else that a stage made.
    """
    made = [path for stage in first.values() for path in stage["outs"]]
    blamed, after = {}, []
    for name, stage in first.items():
        if name not in again:
            blamed[name] = ["did not end"]
            continue
        inputs, outputs = (
            [path for path, digest in stage[kind].items() if again[name][kind].get(path) != digest]
            for kind in ("deps", "outs")
        )
        foreign = [path for path in inputs if not any(path == out or path.startswith(f"{out}/") for out in made)]
        if foreign:
            blamed[name] = [f"{path} (an input that no stage made)" for path in foreign]
        elif inputs:
            after.append(name)
        elif outputs:
            blamed[name] = outputs
    return blamed, after


def repeat(project: Path) -> dict[str, dict[str, list[str]]]:
    """For each circumstance the stages that are to blame, with their outputs that differ. Prints a line for each."""
    found: dict[str, dict[str, list[str]]] = {}

    def compare(name: str, again: Stages) -> None:
        blamed, after = not_reproduced(first, again)
        # What differs from run to run differs under every circumstance: said once.
        found[name] = {stage: paths for stage, paths in blamed.items() if stage not in found.get(AGAIN, {})}
        says = "; ".join(f"{stage}: {', '.join(paths)}" for stage, paths in found[name].items())
        follows = f" (so other inputs for: {', '.join(after)})" if after else ""
        print(f"{'DIFFERENT' if says else 'same     '}  {name:22}  {says}{follows}".rstrip(), flush=True)

    with tempfile.TemporaryDirectory(prefix="repeat-") as temporary:
        here = Path(temporary, "here")

        def fresh(circumstance: Circumstance) -> Path:
            shutil.rmtree(here, ignore_errors=True)
            return clone(project, here / circumstance.folder)

        start = time.perf_counter()
        original = fresh(CIRCUMSTANCES[0])
        if said := run(original, CIRCUMSTANCES[0]):
            raise UserError(f"{project}: the first run failed, so there is nothing to compare with:\n{said}")
        seconds = time.perf_counter() - start
        first = stages_of(original)
        print(f"{len(first)} stages, {sum(len(of['outs']) for of in first.values())} outputs, {seconds:.0f} s a run")
        if tracked(project, "*dvc.lock"):
            compare("the committed dvc.lock", stages_of(project))
        for circumstance in CIRCUMSTANCES:
            again = fresh(circumstance)
            run(again, circumstance)
            compare(circumstance.name, stages_of(again))
        for part in KILLED_AFTER:
            again, killed = fresh(CIRCUMSTANCES[0]), Circumstance(f"killed after {part:.0%}")
            run(again, killed, kill_after=part * seconds)
            run(again, killed)
            compare(killed.name, stages_of(again))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.repeat", description="Is a DVC project reproducible?")
    parser.add_argument("project", metavar="DIR", type=Path, help="the project: a git repository with dvc.yaml")
    project = parser.parse_args().project.resolve()
    if not (project / ".dvc").is_dir():
        raise UserError(f"{project}: expected a DVC project (a folder .dvc), found none.")
    if any(repeat(project).values()):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
