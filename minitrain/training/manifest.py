"""What a run is made of, and the digest that names it.

``run_inputs`` is written before training: everything that decides the result. ``complete`` adds what came
out. Nothing volatile is in it: no clock, host, path or git commit (those go to MLflow).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from minitrain.base import code, files, formats, layout
from minitrain.dataset.read import Dataset
from minitrain.params import ModelConfig, TrainConfig

SCHEMA_VERSION = 3
# What a manifest must have for the model to be loaded; and, made by the pipeline, to be logged and reported.
MODEL_TYPES: dict[str, type] = dict.fromkeys(("config", "files"), dict)
TYPES: dict[str, type] = {
    **MODEL_TYPES,
    **dict.fromkeys(("code_digest", "config_hash", "data_manifest_sha256", "inputs_digest"), str),
    **dict.fromkeys(("metrics", "state_digests"), dict),
    **dict.fromkeys(("parameters", "step"), int),
}


def run_inputs(model_config: ModelConfig, config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Everything that a run is a function of: config (the arithmetic is part of it), data and code."""
    configs = {"model": asdict(model_config), "train": asdict(config)}
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "config": configs,
        "config_hash": _digest(configs),
        "data_manifest_sha256": dataset.data_manifest_sha256,
        "data": {(layout.BATCHES / name).as_posix(): digest for name, digest in dataset.digests.items()},
        "code_digest": code.code_digest("train"),
    }


def inputs_digest(inputs: Mapping[str, Any]) -> str:
    """The name of the folder with a run's checkpoints: 16 hex digits."""
    return _digest(inputs)[:16]


def _digest(value: Any) -> str:
    return files.sha256(formats.json_bytes(value))
