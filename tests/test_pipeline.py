"""dvc.yaml against the code: what a stage declares is what it really uses; what is locked is what is committed."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from closure import import_closure

from minitrain.base import code, files, layout
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.training import manifest
from proofs.project import SHORT, copy_project, set_params

STAGES = (*layout.STAGES, "verify")
# What only observes a run can change no output, so it is nobody's dependency.
OBSERVERS = {Path("minitrain/tracking.py")}


@pytest.fixture(scope="module")
def pipeline(root):
    return yaml.safe_load((root / "dvc.yaml").read_text())


def script(stage: str) -> Path:
    return Path("stages", stage.replace("-", "_") + ".py")


def test_the_stages_are_these_in_this_order(pipeline):
    assert tuple(pipeline["stages"]) == STAGES


@pytest.mark.parametrize("stage", layout.STAGES)
def test_a_stage_declares_the_code_that_it_imports(root, pipeline, stage, monkeypatch):
    monkeypatch.chdir(root)
    imported = set(import_closure(script(stage))) - OBSERVERS
    assert imported <= set(code.declared_code(stage))
    deps = pipeline["stages"][stage]["deps"]
    for declared in [Path(dep) for dep in deps if dep.startswith(("minitrain", "stages"))]:
        assert any(path.is_relative_to(declared) for path in imported), f"{declared}: nothing of it is imported"
    assert "requirements.lock" in deps
    assert pipeline["stages"][stage]["cmd"] == f"python -m stages.{script(stage).stem}"


def test_the_gate_runs_always_so_it_declares_only_what_comes_before_it(pipeline):
    assert set(pipeline["stages"]["verify"]["deps"]) == {
        f"plots/{stage}/metrics.json" for stage in ("checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare")
    }
    assert "params" not in pipeline["stages"]["verify"]


def test_a_stage_declares_its_parameters_by_section_and_every_parameter_has_a_stage(root, pipeline):
    values = yaml.safe_load((root / "params.yaml").read_text())
    keys = {f"{section}.{key}" for section, of_section in values.items() for key in of_section}
    declared = set()
    for stage in layout.STAGES:
        for name in pipeline["stages"][stage]["params"]:
            section = {key for key in keys if key == name or key.startswith(f"{name}.")}
            assert section, f"{stage}: {name} is no parameter"
            declared |= section
    assert declared == keys
    assert {"model", "train"} <= set(pipeline["stages"]["train"]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_metrics_and_its_plots_are_committed_not_cached(pipeline, stage):
    outs = pipeline["stages"][stage]
    assert outs["metrics"] == [{f"plots/{stage}/metrics.json": {"cache": False}}]
    for out in [*outs.get("plots", []), *outs.get("outs", [])]:
        if isinstance(out, str):
            assert out in ("data/batches", "models")
            continue
        ((path, settings),) = out.items()
        assert path.startswith(f"plots/{stage}/") or (stage, path) == ("baseline-compare", "plots/train/loss.png")
        assert settings == {"cache": False}


def test_only_the_gate_always_runs(pipeline):
    assert [stage for stage, content in pipeline["stages"].items() if content.get("always_changed")] == ["verify"]


def test_what_a_file_manager_leaves_is_no_part_of_the_data(root):
    command = [sys.executable, "-m", "dvc", "check-ignore", "data/shards/.DS_Store", "data/shards/.x.jsonl.swp"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == command[-2:]


def test_the_committed_plots_are_those_of_the_lock(root, pipeline):
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
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    assert set(lock) == set(STAGES)
    command = [sys.executable, "-c", DIGESTS, *{dep["path"] for stage in lock.values() for dep in stage["deps"]}]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    digests = dict(line.split() for line in result.stdout.splitlines())
    for stage, content in lock.items():
        for dep in content["deps"]:
            if not dep["path"].startswith(("data/batches", "models")):  # may not be here: DVC's cache has them
                assert digests[dep["path"]] == dep["md5"], f"{stage}: run dvc repro: {dep['path']}"


# The digests that DVC gives files and folders, by the code of DVC.
DIGESTS = """
import os, sys
from dvc.repo import Repo
from dvc_data.hashfile.build import build
repo = Repo()
for path in sys.argv[1:]:
    if os.path.exists(path):
        _, _, tree = build(repo.cache.local, os.path.abspath(path), repo.fs, "md5", ignore=repo.dvcignore, dry_run=True)
        print(path, tree.hash_info.value)
"""


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


# --- what runs after an edit: DVC's own answer -----------------------------------------------------------


@pytest.fixture(scope="session")
def reproduced(ran, tmp_path_factory):
    """The project of ``ran`` with git and DVC, whose lock says that nothing is to be done before the gate."""
    project = copy_project(tmp_path_factory.mktemp("reproduced") / "project", SHORT)
    for name in ("data/batches", "models", "plots"):
        shutil.copytree(ran[0] / name, project / name, dirs_exist_ok=True)
    (project / ".gitignore").write_text("/checkpoints\n/mlflow.db\n/mlruns\n/mlartifacts\n__pycache__/\n")
    for command in (["git", "init", "-q"], [*DVC, "init", "-q"], [*DVC, "commit", "-q", "-f", *layout.STAGES]):
        subprocess.run(command, cwd=project, check=True, capture_output=True, env=ENVIRONMENT)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", *identity, "commit", "-qm", "all"], cwd=project, check=True)
    return project


DVC = [sys.executable, "-m", "dvc"]
ENVIRONMENT = {**os.environ, "DVC_NO_ANALYTICS": "1"}


def dvc(project: Path, *arguments: str) -> str:
    result = subprocess.run(
        [*DVC, *arguments], cwd=project, capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    return result.stdout


def would_run(project: Path) -> set[str]:
    """The stages before the gate that ``dvc repro`` would run, the gate excluded: it runs always."""
    return set(
        re.findall("^Running stage '(.*)':$", dvc(project, "repro", "--dry", *layout.STAGES), flags=re.MULTILINE)
    )


@pytest.fixture
def copied(reproduced, tmp_path):
    return Path(shutil.copytree(reproduced, tmp_path / "project", symlinks=True))


DRAWING = {"fp16-drift", "baseline-compare"}
AFTER_TRAINING = {"checkpoint-roundtrip-verify", *DRAWING}
EDITS = {
    "minitrain/figures.py": DRAWING,
    "minitrain/tracking.py": set(),
    "minitrain/gate/checks.py": set(),
    "minitrain/gate/report.py": set(),
    "minitrain/evaluation/ngram.py": AFTER_TRAINING,
    "minitrain/evaluation/drift.py": AFTER_TRAINING,
    "minitrain/corpus/rows.py": {"shard-to-batches"},
    "minitrain/loop.py": {"train", *AFTER_TRAINING},
    "stages/train.py": {"train"},
}


def test_after_a_run_nothing_is_to_be_done_with_or_without_bytecode(copied):
    assert would_run(copied) == set()
    lock = (copied / "dvc.lock").read_bytes()
    for path in [copied / "minitrain", *(copied / "minitrain").glob("*/")]:
        (path / "__pycache__").mkdir(exist_ok=True)
        (path / "__pycache__/x.cpython-311.pyc").write_bytes(b"bytecode")
        (path / "y.pyc").write_bytes(b"bytecode")
    assert would_run(copied) == set()
    dvc(copied, "commit", "-f", *layout.STAGES)
    assert (copied / "dvc.lock").read_bytes() == lock


@pytest.mark.parametrize("path", EDITS)
def test_an_edit_runs_the_stages_that_declare_the_file_and_no_other(copied, path):
    with (copied / path).open("a") as file:
        file.write("# an edit\n")
    assert would_run(copied) == EDITS[path]


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("train.lr", 0.002, {"train", "checkpoint-roundtrip-verify", "baseline-compare"}),
        ("ngram.alpha", 0.02, {"baseline-compare"}),
        ("split.seed", 19, {"shard-to-batches"}),
    ],
)
def test_a_changed_parameter_is_shown_and_runs_the_stages_that_declare_it(copied, key, value, stages):
    set_params(copied, {**SHORT, key: value})
    assert [line.split()[:2] for line in dvc(copied, "params", "diff").splitlines()[1:]] == [["params.yaml", key]]
    assert would_run(copied) == stages


def test_what_names_a_runs_checkpoints_is_the_code_that_train_declares(copied, monkeypatch):
    monkeypatch.chdir(copied)
    params, declared = read_params(), set(code.declared_code("train"))
    dataset = read_dataset(layout.BATCHES, params.model)

    def name() -> str:
        return manifest.inputs_digest(manifest.run_inputs(params.model, params.train, dataset))

    first = name()
    for path in [path for folder in code.PACKAGES for path in Path(folder).rglob("*.py")]:
        content = path.read_bytes()
        path.write_bytes(content + b"# an edit\n")
        assert (name() != first) == (path in declared), path
        path.write_bytes(content)
