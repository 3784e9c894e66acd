"""A user's mistake is answered by one clear line, and nothing half-written is left.

What is wrong with rows, shards and parameters, one by one: test_corpus.py, test_params.py; with batches: test_batches.py.
"""

import sys

import pytest
from closure import PACKAGES, imported_modules
from conftest import edit, model_file, refused, run_python, run_stage

import stages
from proofs.project import copy_project, set_params, tree


@pytest.mark.parametrize("lr", [30.0, 1000.0])
def test_a_run_that_diverges_stops_with_one_line(untrained, lr):
    set_params(untrained, {"train.lr": lr, "train.warmup_steps": 0, "train.clip_norm": 1e6})
    message = refused(run_stage(untrained, "train"))
    assert "step " in message
    assert "The last checkpoint before: checkpoints/" in message
    assert not (untrained / "models").exists()


@pytest.mark.parametrize("name", ["numpy", "safetensors", "ruamel", "tqdm", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_imported(root, tmp_path, name):
    # None: Python takes it for not there.
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{name}'] = None")
    message = refused(run_python(root, "-m", "stages.train", PYTHONPATH=str(tmp_path)))
    assert f"missing from {sys.executable}: {name}." in message
    assert "source .venv/bin/activate" in message


def test_every_package_that_is_imported_is_looked_up(root):
    """So the peers of the benchmarks are imported by no file of the project."""
    paths = [*root.glob("minitrain/**/*.py"), *root.glob("stages/*.py")]
    imported = {module.split(".")[0] for path in paths for module in imported_modules(path)}
    assert imported - set(sys.stdlib_module_names) - set(PACKAGES) == set(stages.NEEDED)


SHARD = "data/shards/shard-01.jsonl"
BAD_INPUTS = {
    "a row": (
        lambda p: edit(p / SHARD, {'"tense": "': '"tense": "x'}),
        f"{SHARD}:1: key 'tense': expected one of 'infinitive'",
    ),
    "invalid UTF-8": (
        lambda p: (p / SHARD).write_bytes(b'{"id": "\xff"}\n'),
        f"{SHARD}:1: expected UTF-8, got the byte 0xff",
    ),
    "missing folder": (
        lambda p: edit(p / "params.yaml", {"data/shards": "data/nowhere"}),
        "data/nowhere: expected a folder with at least one shard",
    ),
    "empty folder": (
        lambda p: [path.unlink() for path in (p / "data/shards").iterdir()],
        "data/shards: expected a folder with at least one shard",
    ),
    "missing shard": (lambda p: (p / SHARD).unlink(), "as in data/MANIFEST.json, got none."),
    "missing manifest": (lambda p: (p / "data/MANIFEST.json").unlink(), "data/MANIFEST.json: cannot be read"),
    "too long a sequence": (
        lambda p: edit(p / "params.yaml", {"context: 32": "context: 20"}),
        "expected at most 21 tokens",
    ),
    "too small a vocabulary": (
        lambda p: edit(p / "params.yaml", {"vocab_size: 64": "vocab_size: 20"}),
        "model.vocab_size: expected at least",
    ),
    "a parameter": (
        lambda p: edit(p / "params.yaml", {"steps: 2000": "stepps: 2000"}),
        "params.yaml:25: train.stepps: unknown key",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_bad_corpus_or_parameter_is_named_and_nothing_is_written(tmp_path, name):
    breaking, message = BAD_INPUTS[name]
    project = copy_project(tmp_path / "project")
    breaking(project)
    before = tree(project)
    assert message in refused(run_stage(project, "shard-to-batches"))
    assert tree(project) == before


BAD_MODELS = {
    "truncated": (lambda p: model_file(p).write_bytes(model_file(p).read_bytes()[:-1]), "expected the sha256"),
    "gone": (lambda p: model_file(p).unlink(), "cannot be read"),
    "without its manifest": (
        lambda p: next((p / "models").glob("*.json")).unlink(),
        "expected one model with its manifest, found 0",
    ),
    "of another config": (
        lambda p: edit(p / "params.yaml", {"d_ff: 256": "d_ff: 128"}),
        "expected the config of params.yaml",
    ),
    "of another schema": (
        lambda p: edit(next((p / "models").glob("*.json")), {'"schema_version": 2': '"schema_version": 9'}),
        "key 'schema_version': expected 2",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_named_and_nothing_is_written(whole, name):
    breaking, message = BAD_MODELS[name]
    breaking(whole)
    before = tree(whole)
    assert message in refused(run_stage(whole, "fp16-drift"))
    assert tree(whole) == before
