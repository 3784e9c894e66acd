"""A copy of the project to run, to kill and to break: the same code and data, a shorter training."""

import shutil
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
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
        assert name in params[section]
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
