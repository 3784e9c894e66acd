"""What a run is made of, and the run's lineage: a digest of all of it.

``plan`` is written before training: every input that decides the result. ``complete`` adds what came
out. Nothing volatile is in it: no clock, host, path or git commit (those go to MLflow).
"""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from minitrain import files, numerics
from minitrain.params import ModelParams, TrainParams

SCHEMA_VERSION = 1
PACKAGES = ("numpy", "safetensors")  # those whose code computes or writes the model


def plan(
    model: ModelParams,
    train: TrainParams,
    vocab_size: int,
    data_manifest: str,
    data: Mapping[str, str],
    code: str,
    lock: str,
) -> dict[str, Any]:
    """The inputs of a run. ``data`` holds the sha256 of each batch file; the other digests are hex strings."""
    config = {"model": {**asdict(model), "vocab_size": vocab_size}, "train": asdict(train)}
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": train.seed,
        "config": config,
        "config_hash": _digest(config),
        "data_manifest_sha256": data_manifest,
        "data": dict(data),
        "code_digest": code,
        "requirements_lock_sha256": lock,
        "packages": {name: version(name) for name in PACKAGES},
        "numerics": numerics.fingerprint(),
    }


def lineage(planned: Mapping[str, Any]) -> str:
    """The name of everything that a run with this plan leaves behind on its way: 16 hex digits."""
    return _digest(planned)[:16]


def complete(
    planned: Mapping[str, Any],
    model_file: str,
    n_parameters: int,
    step: int,
    metrics: Mapping[str, Any],
    states: Mapping[str, str],
    left: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest that lies beside the model. ``states`` and ``left`` hold digests: of each state machine,
    taken from memory, and of each file.
    """
    return {
        **planned,
        "lineage": lineage(planned),
        "model": model_file,
        "parameters": n_parameters,
        "step": step,
        "metrics": dict(metrics),
        "state_digests": dict(states),
        "files": dict(left),
    }


def _digest(value: Any) -> str:
    return files.sha256(files.canonical_json(value).encode())
