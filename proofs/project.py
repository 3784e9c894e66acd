"""A copy of the project to run, to kill and to break: the same code and data, a shorter training; and what it left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from minitrain.base import UserError

ROOT = Path(__file__).resolve().parent.parent
DVC = (sys.executable, "-m", "dvc")
PARTS = ("minitrain", "stages", "data", "params.yaml", "dvc.yaml", ".dvcignore", "requirements.lock")

# The real model, corpus and batches; few steps, but past warm-up, with evaluations and checkpoints.
SHORT: dict[str, Any] = {
    "train.steps": 24,
    "train.warmup_steps": 5,
    "train.eval_every": 8,
    "train.checkpoint_every": 10,
}


def copy_project(target: Path, changes: dict[str, Any] | None = None) -> Path:
    """The project's code, data and parameters at ``target``, without anything that a run left; ``changes`` by
    dotted key.
    """
    target.mkdir(parents=True)
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "batches"))
        else:
            shutil.copy(ROOT / name, target / name)
    if changes:
        set_params(target, changes)
    return target


def set_params(project: Path, changes: dict[str, Any]) -> None:
    """Change keys of the project's params.yaml, given as ``section.key``."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        section, name = key.split(".")
        params[section][name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def tree(root: Path, *folders: str) -> dict[str, bytes]:
    """The content of every file below ``root``, or below some folders of it, by its path from ``root``."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in folders or (".",)
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def different(expected: dict[str, bytes], got: dict[str, bytes]) -> list[str]:
    """The paths of the files that two such trees do not have alike."""
    return sorted(path for path in expected.keys() | got.keys() if expected.get(path) != got.get(path))


def must_run(folder: Path, *command: str, **environment: str) -> str:
    """Run a command, with these variables besides, which has to end well; what it printed. UserError otherwise."""
    env = {**os.environ, **environment}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UserError(f"{' '.join(command):.200} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def must_fail(words: str, folder: Path, *command: str) -> None:
    """Run a command that has to fail with these words; UserError otherwise."""
    try:
        must_run(folder, *command)
    except UserError as error:
        if words in str(error):
            return
        raise
    raise UserError(f"the proof does not hold: in {folder.name}, {command[-1]} ended well")


def make_repository(project: Path) -> None:
    """Put the project under git and DVC, with a first commit."""
    (project / ".gitignore").write_text("/checkpoints\n/mlflow.db\n/mlruns\n__pycache__/\n")
    must_run(project, "git", "init", "-q")
    must_run(project, *DVC, "init", "-q")
    commit_all(project)


def commit_all(project: Path) -> None:
    """Commit all that is there."""
    must_run(project, "git", "add", "-A")
    must_run(project, "git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "x")
