"""dvc.yaml against the code: what a stage declares is what it really uses; what is locked is what is committed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from minitrain import files
from minitrain.sources import import_closure

STAGES = ("shard-to-batches", "train", "checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare", "verify")


@pytest.fixture(scope="module")
def pipeline(root):
    return yaml.safe_load((root / "dvc.yaml").read_text())


def script(stage: str) -> Path:
    return Path("stages", stage.replace("-", "_") + ".py")


def test_the_stages_are_these_in_this_order(pipeline):
    assert tuple(pipeline["stages"]) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_exactly_the_files_it_imports(root, pipeline, stage, monkeypatch):
    monkeypatch.chdir(root)
    declared = {dep for dep in pipeline["stages"][stage]["deps"] if dep.endswith(".py")}
    assert declared == {path.as_posix() for path in import_closure(script(stage))}
    assert "requirements.lock" in pipeline["stages"][stage]["deps"]
    assert pipeline["stages"][stage]["cmd"] == f"python -m stages.{script(stage).stem}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_its_parameters_key_by_key(root, pipeline, stage):
    values = yaml.safe_load((root / "params.yaml").read_text())
    for key in pipeline["stages"][stage]["params"]:
        section, name = key.split(".")
        assert not isinstance(values[section][name], dict)


def test_every_parameter_re_runs_a_stage(root, pipeline):
    values = yaml.safe_load((root / "params.yaml").read_text())
    declared = {key for stage in pipeline["stages"].values() for key in stage["params"]}
    assert declared == {f"{section}.{name}" for section, keys in values.items() for name in keys}


def test_a_change_of_any_training_parameter_trains_again(root, pipeline):
    values = yaml.safe_load((root / "params.yaml").read_text())
    trained_with = set(pipeline["stages"]["train"]["params"])
    assert trained_with >= {f"{section}.{name}" for section in ("model", "train") for name in values[section]}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_metrics_and_its_plots_are_committed_not_cached(pipeline, stage):
    outs = pipeline["stages"][stage]
    assert outs["metrics"] == [{f"plots/{stage}/metrics.json": {"cache": False}}]
    for out in [*outs.get("plots", []), *outs.get("outs", [])]:
        if isinstance(out, str):
            assert out in ("data/batches", "models")
            continue
        ((path, settings),) = out.items()
        assert path.startswith(f"plots/{stage}/")
        assert settings == {"cache": False}


def test_only_the_gate_always_runs(pipeline):
    assert [stage for stage, content in pipeline["stages"].items() if content.get("always_changed")] == ["verify"]


def test_the_gate_depends_on_everything_that_the_stages_leave(pipeline):
    deps = set(pipeline["stages"]["verify"]["deps"])
    for stage in STAGES[:-1]:
        for kind in ("outs", "metrics", "plots"):
            for out in pipeline["stages"][stage].get(kind, []):
                assert (out if isinstance(out, str) else next(iter(out))) in deps


def test_what_a_file_manager_leaves_is_no_part_of_the_data(root):
    command = [sys.executable, "-m", "dvc", "check-ignore", "data/shards/.DS_Store", "data/shards/.x.jsonl.swp"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == command[-2:]


def test_the_committed_plots_are_those_of_the_lock(root, pipeline):
    import hashlib

    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    assert set(lock) == set(STAGES)
    checked = 0
    for stage in STAGES:
        for out in lock[stage]["outs"]:
            if out["path"].startswith("plots/"):
                assert hashlib.md5((root / out["path"]).read_bytes()).hexdigest() == out["md5"], out["path"]
                checked += 1
    assert checked >= len(STAGES)


def test_the_lock_holds_the_committed_code_and_data(root):
    import hashlib

    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    for stage in STAGES:
        for dep in lock[stage]["deps"]:
            path = root / dep["path"]
            if path.is_file() and not dep["path"].startswith(("data/batches", "models")):
                assert hashlib.md5(path.read_bytes()).hexdigest() == dep["md5"], (
                    f"{stage}: run dvc repro: {dep['path']}"
                )


def test_plots_that_dvc_shows_are_left_by_a_stage_and_have_titles_and_labels(root, pipeline):
    left = {
        next(iter(out))
        for stage in pipeline["stages"].values()
        for out in stage.get("outs", [])
        if isinstance(out, dict)
    }
    for plot in pipeline["plots"]:
        ((_, settings),) = plot.items()
        assert set(settings["y"]) <= left
        assert {"title", "x_label", "y_label", "x"} <= set(settings)
        for path, columns in settings["y"].items():
            header = files.read_text(root / path).splitlines()[0].split(",")
            assert {settings["x"], *([columns] if isinstance(columns, str) else columns)} <= set(header)


def test_lock_files_pin_by_hash_and_hold_no_address(root):
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (root / name).read_text()
        assert "://" not in text
        assert "--index" not in text
        entries = re.findall(r"^[A-Za-z0-9_.-]+==", text, flags=re.MULTILINE)
        assert len(entries) > 15
        assert text.count("--hash=sha256:") >= len(entries)


def test_the_benchmark_runs_on_the_locked_versions(root):
    locked = dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (root / "requirements.lock").read_text(), flags=re.MULTILINE))
    pinned = re.findall(r"^([a-z0-9_.-]+)==(\S+)$", (root / "requirements-bench.txt").read_text(), flags=re.MULTILINE)
    shared = {name: version for name, version in pinned if name in locked}
    assert {"numpy", "safetensors"} <= set(shared)
    assert shared == {name: locked[name] for name in shared}


def test_benchmark_peers_are_never_imported_by_the_project(root):
    for folder in ("minitrain", "stages"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & {"torch", "jax", "optax"}, path
