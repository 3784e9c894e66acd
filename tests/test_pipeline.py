"""dvc.yaml against the code: what a stage declares is what it really uses; what is locked is what is committed."""

import contextlib
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from closure import import_closure
from conftest import edit
from dvc.repo import Repo

from minitrain.base import code, layout

# What only observes a run can change no output, so it is nobody's dependency.
OBSERVERS = {Path("minitrain/tracking.py"), Path("minitrain/mlflow_store.py")}


@pytest.fixture(scope="module")
def pipeline(root):
    return yaml.safe_load((root / "dvc.yaml").read_text())


@pytest.mark.parametrize("stage", layout.STAGES)
def test_a_stage_declares_the_code_that_it_imports_and_no_other(root, pipeline, stage, monkeypatch):
    monkeypatch.chdir(root)
    script = Path("stages", stage.replace("-", "_") + ".py")
    imported = set(import_closure(script)) - OBSERVERS
    assert imported <= set(code.declared_code(stage))
    deps = pipeline["stages"][stage]["deps"]
    for declared in [Path(dep) for dep in deps if dep.startswith(("minitrain", "stages"))]:
        assert any(path.is_relative_to(declared) for path in imported), f"{declared}: nothing of it is imported"
    # Arithmetic is exact: on the versions of packages only the bytes of pictures depend.
    assert ("requirements.lock" in deps) == (Path("minitrain/figures.py") in imported)
    assert pipeline["stages"][stage]["cmd"] == f"python -m stages.{script.stem}"


def test_stages_declare_parameters_that_there_are_and_every_parameter_has_a_stage(root, pipeline):
    params = yaml.safe_load((root / "params.yaml").read_text())
    keys = {f"{section}.{key}" for section, of_section in params.items() for key in of_section}
    declared = {name for stage in layout.STAGES for name in pipeline["stages"][stage]["params"]}
    assert declared <= keys | set(params)
    assert {key for key in keys if declared & {key, key.split(".")[0]}} == keys


def test_each_lock_file_has_what_pyproject_asks_for_and_no_address(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    of_pipeline = project["project"]["optional-dependencies"]["pipeline"]
    groups = {"requirements": project["project"]["dependencies"] + of_pipeline}
    groups |= {f"requirements-{name}": asked for name, asked in project["dependency-groups"].items()}
    for name, asked in groups.items():
        text = (root / f"{name}.lock").read_text()
        locked = set(re.findall(r"^([\w.-]+)==\S+ .*\n    --hash=sha256:", text, flags=re.MULTILINE))
        assert {package.lower().partition("[")[0] for package in asked} <= locked, name
        assert not re.search("://|--index", text)


def test_every_action_of_the_workflow_is_pinned_by_its_commit(root):
    used = re.findall(r"uses: (\S+)", "".join(path.read_text() for path in (root / ".github/workflows").iterdir()))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


# --- DVC's own answers, by its code in this process ------------------------------------------------------


def changed(project: Path) -> dict[str, set[str]]:
    """What ``dvc status`` says: the stages to run again before the gate, which always runs, and what of theirs has
    changed since ``dvc.lock``.
    """
    with contextlib.chdir(project):
        status = Repo().status()
    assert status.pop("verify")[-1] == "always changed"
    return {stage: {path for part in parts for path in next(iter(part.values()))} for stage, parts in status.items()}


def test_the_lock_holds_the_committed_code_data_parameters_and_plots(root):
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    assert set(lock) == {*layout.STAGES, "verify"}
    assert set().union(*changed(root).values()) <= {"data/batches", "models"}  # may not be here: DVC's cache has them


@pytest.fixture(scope="module")
def reproduced(ran, tmp_path_factory):
    """The project of ``ran`` under DVC, with a lock of what is there."""
    project = Path(shutil.copytree(ran, tmp_path_factory.mktemp("reproduced") / "project"))
    with contextlib.chdir(project):
        repo = Repo.init(no_scm=True)
        for stage in layout.STAGES:
            repo.commit(stage, force=True)
    return project


def test_after_a_run_nothing_is_to_be_done_and_bytecode_changes_nothing(reproduced):
    assert changed(reproduced) == {}
    cache = reproduced / "minitrain/base/__pycache__"
    cache.mkdir()
    (cache / "x.cpython-311.pyc").write_bytes(b"bytecode")
    assert changed(reproduced) == {}


DRAWING = {"fp16-drift", "baseline-compare"}
AFTER_TRAINING = {"checkpoint-roundtrip-verify", *DRAWING}
LINE = ("", "# an edit\n")  # at the beginning of the file
EDITS = [
    ("minitrain/figures.py", *LINE, DRAWING),
    ("minitrain/tracking.py", *LINE, set()),
    ("minitrain/gate/checks.py", *LINE, set()),
    ("minitrain/evaluation/ngram.py", *LINE, AFTER_TRAINING),
    ("minitrain/corpus/rows.py", *LINE, {"shard-to-batches"}),
    ("minitrain/loop.py", *LINE, {"train", *AFTER_TRAINING}),
    ("stages/train.py", *LINE, {"train"}),
    ("params.yaml", " lr: 0.003", " lr: 0.002", {"train", "checkpoint-roundtrip-verify", "baseline-compare"}),
    ("params.yaml", "alpha: 0.01", "alpha: 0.02", {"baseline-compare"}),
    ("params.yaml", "seed: 18", "seed: 19", {"shard-to-batches"}),  # of the split, the first one in the file
]


@pytest.mark.parametrize(("path", "old", "new", "stages"), EDITS)
def test_an_edit_runs_the_stages_that_declare_it_and_no_other(reproduced, path, old, new, stages):
    before = (reproduced / path).read_bytes()
    edit(reproduced / path, {old: new})
    found = changed(reproduced)
    (reproduced / path).write_bytes(before)
    assert set(found) == stages
    assert all(Path(path).is_relative_to(declared) for of in found.values() for declared in of)
