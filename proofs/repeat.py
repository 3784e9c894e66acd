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
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from minitrain.base import UserError
from minitrain.base.process import run_command
from proofs.project import DVC, must_run

SHIMS = Path(__file__).resolve().parent / "shims"
REPRO = f"{shlex.join(DVC)} repro --all-pipelines --no-run-cache --keep-going"

Stage = dict[str, dict[str, str]]  # the hashes of what it depends on ("deps") and of what it leaves ("outs"), by path
Stages = dict[str, Stage]  # by name, with the folder of its dvc.yaml where that is not the project's

AGAIN = "the same again"
# What may differ without making it another run, and what a shell puts before the command for it.
CIRCUMSTANCES = {
    AGAIN: "",
    # 26 hours apart, so the date is another one too.
    "time zone, far west": "TZ=Etc/GMT+12",
    "time zone, far east": "TZ=Etc/GMT-14",
    "locale": "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0",
    "path": "",  # it runs in another folder
    "home and user": "mkdir ../home; HOME=$PWD/../home USER=somebody LOGNAME=somebody",
    "umask": "umask 077;",
    "hash seed": "PYTHONHASHSEED=12345",
    "number of cores": f"taskset --cpu-list {min(os.sched_getaffinity(0))}",
    "order of files": f"PYTHONPATH={shlex.quote(str(SHIMS / 'file_order'))}",
    "kernels of the BLAS": "OPENBLAS_CORETYPE=Prescott NPY_DISABLE_CPU_FEATURES='AVX2 FMA3'",
}
# Killed, with all its processes, after this part of the time that the first run took, and run again.
KILLED = {f"killed after {percent}%": percent / 100 for percent in (20, 40, 60, 80)}


def clone(project: Path, target: Path) -> Path:
    """The last commit of a project without results: dvc.lock is removed, tracked data is pulled from its cache."""
    target.parent.mkdir(parents=True, exist_ok=True)
    must_run(target.parent, "git", "clone", "--quiet", str(project), str(target))
    for path in tracked(target, "*dvc.lock"):
        (target / path).unlink()
    if inputs := tracked(target, "*.dvc"):
        cache = must_run(project, *DVC, "cache", "dir").strip()
        must_run(target, *DVC, "remote", "add", "--local", "--force", "repeated", cache)
        must_run(target, *DVC, "pull", "--quiet", "--remote", "repeated", *inputs)
    return target


def tracked(project: Path, pattern: str) -> list[str]:
    """The paths of the files of a commit that match."""
    return must_run(project, "git", "ls-files", "-z", "--", pattern).split("\0")[:-1]


def run(project: Path, before: str = "", kill_after: float | None = None) -> str:
    """All pipelines of a project, with ``before`` before ``dvc repro`` in the shell; with ``kill_after``, SIGKILL for
    all its processes after so many seconds. What it said if a stage failed; the others ran all the same.
    """
    process = subprocess.Popen(
        ["sh", "-c", f"{before} {REPRO}"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
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
        for name, entry in yaml.safe_load(lock.read_text()).get("stages", {}).items():
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

        def fresh(folder: str = "project") -> Path:
            shutil.rmtree(here, ignore_errors=True)
            return clone(project, here / folder)

        start = time.perf_counter()
        original = fresh()
        if said := run(original):
            raise UserError(f"{project}: the first run failed, so there is nothing to compare with:\n{said}")
        seconds = time.perf_counter() - start
        first = stages_of(original)
        print(f"{len(first)} stages, {sum(len(of['outs']) for of in first.values())} outputs, {seconds:.0f} s a run")
        if tracked(project, "*dvc.lock"):
            compare("the committed dvc.lock", stages_of(project))
        for name, before in CIRCUMSTANCES.items():
            again = fresh("another folder/with a longer name/project" if name == "path" else "project")
            run(again, before)
            compare(name, stages_of(again))
        for name, part in KILLED.items():
            again = fresh()
            run(again, "exec", part * seconds)  # exec: DVC itself is what is killed and waited for
            run(again)
            compare(name, stages_of(again))
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
