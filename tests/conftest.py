"""What tests share: the repository's root, small data, and a copy of the project to run and to break."""

import minitrain  # noqa: F401  (one BLAS thread, before any test imports NumPy)

# isort: split
import contextlib
import importlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from minitrain.base import layout
from minitrain.base.process import run_command
from minitrain.corpus.rows import Row
from minitrain.corpus.shards import Corpus, read_corpus
from minitrain.dataset.build import texts
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS, EOS, Tokenizer, train_tokenizer
from minitrain.minitorch import arithmetic
from minitrain.params import ModelConfig, TrainConfig
from proofs.project import SHORT, copy_project

ROOT = Path(__file__).resolve().parent.parent
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test logs into the store of whoever runs it

# What the library and a loader of the weights do without.
OF_THE_PIPELINE = ("dvc", "matplotlib", "mlflow", "packaging", "tqdm", "yaml")

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


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The committed corpus."""
    return read_corpus(ROOT / "data/shards", ROOT / "data/MANIFEST.json")


@pytest.fixture(scope="session")
def rows(corpus) -> list[Row]:
    """Its correct rows."""
    return list(corpus.correct_rows.values())


@pytest.fixture(scope="session")
def bpe(rows) -> Tokenizer:
    """The tokenizer of those rows."""
    return train_tokenizer(texts(rows), 64)


def store_of(*sequences: Sequence[int]) -> TokenStore:
    """A store of some sequences, each of a cell of its own."""
    ids, offsets = np.arange(len(sequences)), np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    tokens = np.concatenate(sequences).astype(np.uint16)
    return TokenStore(tokens, offsets, ids.astype(np.int32), (ids % 2).astype(np.uint8))


def random_store(
    n: int, seed: int, vocab_size: int = TINY_MODEL.vocab_size, longest: int = TINY_MODEL.context + 1
) -> TokenStore:
    """n sequences of random tokens and lengths, ``<bos>`` and ``<eos>`` included."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return store_of(
        *([BOS, *rng.integers(4, vocab_size, size=length - 2), EOS] for length in rng.integers(3, longest + 1, n))
    )


@pytest.fixture(scope="session")
def train_set() -> TokenStore:
    return random_store(20, seed=1)


@pytest.fixture(scope="session")
def val_set() -> TokenStore:
    return random_store(7, seed=2)


@pytest.fixture
def back_to_exact():
    """For a test that chooses another arithmetic: after it, arithmetic is exact again."""
    yield
    arithmetic.use("exact")


def run_stage(project: Path, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in this process, as ``python -m stages.STAGE`` does in one of its own, which takes seconds to start."""
    from minitrain import tracking  # noqa: F401  (sets variables for good, so before the environment is put back)

    main = importlib.import_module(f"stages.{stage.replace('-', '_')}").main
    code, printed, errors = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(project),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
    ):
        try:
            run_command(main)
        except SystemExit as ended:
            code = ended.code
            if isinstance(code, str):  # as Python does at its exit
                print(code, file=sys.stderr)
                code = 1
    return subprocess.CompletedProcess(stage, code, printed.getvalue(), errors.getvalue())


def run_python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -W error ARGUMENTS`` in a process of its own, for what only a whole process can show."""
    command, env = [sys.executable, "-W", "error", *arguments], {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)


def run_without(packages: tuple[str, ...], script: Path, folder: Path, hook: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in ``folder``, as if ``packages`` were not installed."""
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({packages}))")
    return run_python(folder, str(script), PYTHONPATH=f"{hook}{os.pathsep}{ROOT}")


def edit(path: Path, changes: dict[str, str]) -> None:
    """Replace texts in a file, each once."""
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """A project with a run of 24 steps through the first five stages, all of it in MLflow."""
    project = copy_project(tmp_path_factory.mktemp("ran") / "project", SHORT)
    for stage in layout.STAGES:
        result = run_stage(project, stage)
        assert result.returncode == 0, result.stderr
    from minitrain import tracking

    with contextlib.chdir(project):
        tracking.log_run(layout.STAGES[1:], {})
    return project


@pytest.fixture
def whole(ran, tmp_path):
    """A copy of that project, to be damaged."""
    return Path(shutil.copytree(ran, tmp_path / "whole", ignore=shutil.ignore_patterns("checkpoints")))


@pytest.fixture
def untrained(ran, tmp_path):
    """That project before its training: the batches are there."""
    project = copy_project(tmp_path / "untrained", SHORT)
    shutil.copytree(ran / layout.BATCHES, project / layout.BATCHES)
    return project


def model_file(project: Path) -> Path:
    return next(path for path in (project / "models").glob("*.safetensors") if "state" not in path.name)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that must have failed for a user's mistake: one line, no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line
