"""A user's mistake is answered by one clear line, and nothing half-written is left.

What is wrong with rows, shards and parameters, one by one: test_corpus.py, test_params.py; with batches: test_batches.py.
"""

import sys

import pytest
from closure import PACKAGES, imported_modules
from conftest import edit, model_file, refused, run_python, run_stage

import stages
from proofs.project import set_params, tree


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
# By stage: what is done to a project, and what the stage then says.
BAD_FILES = {
    "shard-to-batches": {
        "a row": (
            lambda p: edit(p / SHARD, {'"label": "': '"label": "x'}),
            f"{SHARD}:1: key 'label': expected one of 'correct' or 'mis_conjugated'",
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
        "a parameter": (lambda p: edit(p / "params.yaml", {" steps: ": " stepps: "}), "train.stepps: unknown key"),
    },
    "fp16-drift": {
        "a truncated model": (
            lambda p: model_file(p).write_bytes(model_file(p).read_bytes()[:-1]),
            "was damaged or changed. Get it back with: dvc checkout; or make it again: dvc repro --force",
        ),
        "no model": (lambda p: model_file(p).unlink(), "cannot be read"),
        "a model without its manifest": (
            lambda p: next((p / "models").glob("*.manifest.json")).unlink(),
            "expected one model with its manifest, found 0",
        ),
        "a model of another config": (
            lambda p: edit(p / "params.yaml", {"d_ff: 256": "d_ff: 128"}),
            "expected the config of params.yaml",
        ),
        "another tokenizer": (
            lambda p: edit(p / "models/tokenizer.json", {"<unk>": "<nil>"}),
            "models/tokenizer.json: expected the sha256",
        ),
        "a model of another schema": (
            lambda p: edit(
                next((p / "models").glob("*.manifest.json")), {'"schema_version": 3': '"schema_version": 9'}
            ),
            "key 'schema_version': expected 3",
        ),
    },
}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in BAD_FILES for name in BAD_FILES[stage]])
def test_a_bad_file_is_named_and_nothing_is_written(whole, stage, name):
    breaking, message = BAD_FILES[stage][name]
    breaking(whole)
    before = tree(whole)
    assert message in refused(run_stage(whole, stage))
    assert tree(whole) == before
