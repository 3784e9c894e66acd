"""Where the pipeline keeps its files, relative to the project's root, and the names that they have."""

import os
from pathlib import Path

# The stages in their order, without the gate (``verify``), which comes last.
STAGES = ("shard-to-batches", "train", "checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare")

BATCHES = Path("data/batches")  # the dataset: a store for each split, the tokenizer, the cells
MODELS = Path("models")
PLOTS = Path("plots")  # a folder for each stage: tables, pictures and metrics.json, the headline numbers
REPORT = Path("PHASE_18_REPORT.md")
REQUIREMENTS_LOCK = Path("requirements.lock")
VERBS = Path("data/verbs.yaml")

# Phase 18 of the curriculum that this project follows is its training loop; the prefix is part of the contract.
MODEL_PREFIX = "minigpt-phase18-"
TOKENIZER = "tokenizer.json"  # in data/batches/, and beside the model
# What the round-trip stage needs to check the promises of the model, below models/:
MIDRUN_CHECKPOINT = "evidence/kept.safetensors"  # the state at three quarters of the run
PROBE = "evidence/probe.safetensors"  # some sequences and their float64 logits, computed before anything was saved


def project() -> Path:
    """The project's root. DVC runs some experiments in a temporary folder below ``.dvc``, and removes it: what is to
    last longer, checkpoints and MLflow's store, belongs here.
    """
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()  # DVC sets it, to the project in such an experiment too
    temporary = Path.cwd().is_relative_to(root / ".dvc/tmp/exps")
    return root if temporary else Path()


def checkpoints() -> Path:
    """The folder of the working checkpoints, outside of DVC and git."""
    return project() / "checkpoints"


def model_name(sha256: str) -> str:
    """The name of the model file with this digest."""
    return f"{MODEL_PREFIX}{sha256[:12]}.safetensors"


def manifest_path(model: Path) -> Path:
    """The manifest beside a model file."""
    return model.with_suffix(".manifest.json")


def state_path(model: Path) -> Path:
    """The state file beside a model file: all of the train state at the end of the run."""
    return model.with_suffix(".state.safetensors")
