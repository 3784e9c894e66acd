"""What tests share: the repository's root, small data, and a copy of the project to run and to break."""

import minitrain  # noqa: F401  (pins the numerics before any test imports NumPy)

# isort: split
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minitrain.base.layout import STAGES
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS, EOS
from minitrain.params import ModelConfig, TrainConfig
from proofs.project import SHORT, copy_project

ROOT = Path(__file__).resolve().parent.parent

TINY_MODEL = ModelConfig(vocab_size=16, d_model=8, n_heads=2, n_layers=2, d_ff=12, context=9)
TINY_TRAIN = TrainConfig(
    seed=3,
    steps=12,
    batch_size=6,
    microshards=3,
    lr=0.01,
    lr_final=0.001,
    warmup_steps=2,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    ema_decay=0.9,
    embed_dropout=0.2,
    residual_dropout=0.1,
    attention_dropout=0.1,
    eval_every=4,
    checkpoint_every=5,
)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


def random_store(
    n: int, seed: int, vocab_size: int = TINY_MODEL.vocab_size, longest: int = TINY_MODEL.context + 1
) -> TokenStore:
    """n sequences of random tokens and lengths, ``<bos>`` and ``<eos>`` included."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sequences = [
        [BOS, *rng.integers(4, vocab_size, size=length - 2), EOS] for length in rng.integers(3, longest + 1, n)
    ]
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    direction = np.arange(n, dtype=np.uint8) % 2
    return TokenStore(np.concatenate(sequences).astype(np.uint16), offsets, np.arange(n, dtype=np.int32), direction)


@pytest.fixture(scope="session")
def train_set() -> TokenStore:
    return random_store(20, seed=1)


@pytest.fixture(scope="session")
def val_set() -> TokenStore:
    return random_store(7, seed=2)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """Run ``python -W error -m MODULE ARGS`` in a folder and return what it printed."""

    def run_module(folder: Path, module: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", module, *args]
        env = {**os.environ, **environment}
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)

    return run_module


def edit(path: Path, changes: dict[str, str]) -> None:
    """Replace texts in a file, each once."""
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """A project with a run of 24 steps through the first five stages, and what they printed."""
    project = copy_project(tmp_path_factory.mktemp("ran") / "project", SHORT)
    printed = {}
    for stage in (name.replace("-", "_") for name in STAGES):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-m", f"stages.{stage}"],
            cwd=project,
            env={**os.environ, "MLFLOW_TRACKING_URI": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        printed[stage] = result.stdout
    return project, printed


def model_file(project: Path) -> Path:
    return next(path for path in (project / "models").glob("*.safetensors") if "state" not in path.name)


@pytest.fixture
def project(tmp_path):
    """The project before any run."""
    return copy_project(tmp_path / "project")


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that must have failed for a user's mistake: one line, no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def whole(ran, tmp_path):
    """A copy of that project, to be damaged."""
    return Path(shutil.copytree(ran[0], tmp_path / "whole", ignore=shutil.ignore_patterns("checkpoints")))
