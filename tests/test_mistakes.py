"""Every mistake of a user is answered by one clear line, and nothing half-written is left."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from closure import PACKAGES, imported_modules
from conftest import edit, model_file, refused

import stages
from proofs.project import SHORT, set_params, tree


@pytest.mark.parametrize("lr", [30.0, 1000.0])
def test_a_run_that_diverges_stops_with_one_line(project, run, lr):
    set_params(project, {**SHORT, "train.lr": lr, "train.warmup_steps": 0, "train.clip_norm": 1e6})
    assert run(project, "stages.shard_to_batches").returncode == 0
    message = refused(run(project, "stages.train"))
    assert "step " in message
    assert "The last checkpoint before: checkpoints/" in message
    assert not (project / "models").exists()


SHARD = "data/shards/shard-01.jsonl"


def first_row(project: Path) -> dict:
    return json.loads((project / SHARD).read_text().splitlines()[0])


def replace_first_row(project: Path, line: str) -> None:
    lines = (project / SHARD).read_text().splitlines(keepends=True)
    (project / SHARD).write_text(line + "\n" + "".join(lines[1:]))


def without(row: dict, key: str) -> str:
    return json.dumps({name: value for name, value in row.items() if name != key})


@pytest.mark.parametrize("name", ["numpy", "safetensors", "yaml", "tqdm", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_imported(root, name):
    code = f"import sys; sys.modules['{name}'] = None; import stages.train"  # None: Python takes it for not there
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    message = refused(result)
    assert f"missing from {sys.executable}: {name}." in message
    assert "source .venv/bin/activate" in message


def test_another_program_reads_the_dataset_without_the_packages_that_it_does_not_need(root, tmp_path):
    """As ``make bench`` does, in an environment of its own."""
    there = (root / "requirements-bench.txt").read_text().replace("pyyaml", "yaml")
    missing = [name for name in stages.NEEDED if f"\n{name}==" not in there]
    assert "mlflow" in missing
    hidden = "".join(f"sys.modules['{name}'] = None\n" for name in missing)
    (tmp_path / "program.py").write_text(f"import sys\n{hidden}from minitrain.dataset.read import read_dataset\n")
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, tmp_path / "program.py"], cwd=root, env=env, check=True)


@pytest.mark.parametrize("name", ["numpy", "tqdm"])
def test_a_stage_started_as_users_start_it_names_the_missing_package(root, run, tmp_path, name):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{name}'] = None")
    assert f": {name}." in refused(run(root, "stages.train", PYTHONPATH=str(tmp_path)))


def test_every_package_that_is_imported_is_looked_up(root):
    paths = [*root.glob("minitrain/**/*.py"), *root.glob("stages/*.py")]
    imported = {module.split(".")[0] for path in paths for module in imported_modules(path)}
    assert imported - set(sys.stdlib_module_names) - set(PACKAGES) == set(stages.NEEDED)


BAD_CORPUS = {
    "broken JSON": (lambda p: replace_first_row(p, '{"id": '), f"{SHARD}:1: expected a JSON object"),
    "missing key": (
        lambda p: replace_first_row(p, without(first_row(p), "tense")),
        f"{SHARD}:1: key 'tense': this key is missing",
    ),
    "unknown tense": (
        lambda p: replace_first_row(p, json.dumps({**first_row(p), "tense": "pluperfect"})),
        f"{SHARD}:1: key 'tense': expected one of 'infinitive'",
    ),
    "duplicate row": (
        lambda p: (p / SHARD).write_text((p / SHARD).read_text() + (p / SHARD).read_text().splitlines()[0] + "\n"),
        f"{SHARD}:168: duplicate id",
    ),
    "invalid UTF-8": (
        lambda p: (p / SHARD).write_bytes(b'{"id": "\xff"}\n'),
        f"{SHARD}:1: expected UTF-8, got the byte 0xff",
    ),
    "empty folder": (
        lambda p: [path.unlink() for path in (p / "data/shards").iterdir()],
        "expected at least one shard",
    ),
    "missing folder": (
        lambda p: edit(p / "params.yaml", {"data/shards": "data/nowhere"}),
        "data/nowhere: expected a folder",
    ),
    "not as in the manifest": (
        lambda p: (p / SHARD).write_text("\n".join((p / SHARD).read_text().splitlines()[:-1]) + "\n"),
        f"{SHARD}: rows: expected 167",
    ),
    "missing shard": (lambda p: (p / SHARD).unlink(), f"{SHARD}: listed in data/MANIFEST.json but not there"),
    "missing manifest": (lambda p: (p / "data/MANIFEST.json").unlink(), "data/MANIFEST.json: cannot be read"),
    "too long a sequence": (
        lambda p: edit(p / "params.yaml", {"context: 32": "context: 20"}),
        "expected at most 21 tokens",
    ),
    "too small a vocabulary": (
        lambda p: edit(p / "params.yaml", {"vocab_size: 64": "vocab_size: 20"}),
        "model.vocab_size: expected at least",
    ),
    "unknown key": (
        lambda p: edit(p / "params.yaml", {"steps: 2000": "stepps: 2000"}),
        "params.yaml:24: train.stepps: unknown key",
    ),
    "wrong type": (
        lambda p: edit(p / "params.yaml", {"steps: 2000": "steps: x"}),
        "params.yaml:24: train.steps: expected a whole",
    ),
    "heads": (lambda p: edit(p / "params.yaml", {"d_model: 64": "d_model: 66"}), "model.d_model: expected a multiple"),
}


@pytest.mark.parametrize("name", BAD_CORPUS)
def test_a_bad_corpus_or_parameter_is_named_and_nothing_is_written(project, run, name):
    breaking, message = BAD_CORPUS[name]
    breaking(project)
    assert message in refused(run(project, "stages.shard_to_batches"))
    assert not (project / "data/batches").exists()
    assert not (project / "plots").exists()


def test_training_without_batches_is_named(project, run):
    message = refused(run(project, "stages.train"))
    assert "data/batches: expected the output of shard-to-batches" in message
    assert "dvc repro shard-to-batches" in message
    assert not (project / "models").exists()


BAD_FILES = {
    "truncated model": (lambda p: model_file(p).write_bytes(model_file(p).read_bytes()[:-1]), "expected the sha256"),
    "flipped bit in the model": (
        lambda p: model_file(p).write_bytes(
            model_file(p).read_bytes()[:-1] + bytes([model_file(p).read_bytes()[-1] ^ 1])
        ),
        "the file was damaged or changed",
    ),
    "no model": (lambda p: model_file(p).unlink(), "cannot be read"),
    "no manifest": (
        lambda p: next((p / "models").glob("*.json")).unlink(),
        "expected one model with its manifest, found 0",
    ),
    "model of another config": (
        lambda p: edit(p / "params.yaml", {"d_ff: 256": "d_ff: 128"}),
        "expected the config of params.yaml",
    ),
    "manifest of another schema": (
        lambda p: edit(next((p / "models").glob("*.json")), {'"schema_version": 1': '"schema_version": 9'}),
        "key 'schema_version': expected 1",
    ),
    "damaged batches": (
        lambda p: (p / "data/batches/val.safetensors").write_bytes(b"x" * 100),
        "data/batches/val.safetensors: expected the sha256",
    ),
    "damaged tokenizer": (
        lambda p: edit(p / "data/batches/tokenizer.json", {'"<unk>"': '"<UNK>"'}),
        "data/batches/tokenizer.json: expected the sha256",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_file_is_named(whole, run, name):
    breaking, message = BAD_FILES[name]
    before = tree(whole / "plots")
    breaking(whole)
    assert message in refused(run(whole, "stages.fp16_drift"))
    assert tree(whole / "plots") == before


def test_an_mlflow_server_that_is_not_there_is_named_and_the_work_is_on_disk(whole, run):
    shutil.rmtree(whole / "models")
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = run(whole, "stages.train", **nowhere)
    assert result.returncode == 0, result.stderr
    note = result.stdout.splitlines()[-1]
    assert note.startswith("note: MLflow at http://127.0.0.1:9: ")
    assert note.endswith("log them with: make log-run")
    assert model_file(whole).exists()
