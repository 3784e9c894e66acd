"""Several settings, each stopped before its end: none costs another its checkpoints, in whatever folder it runs."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY_MODEL, TINY_TRAIN, refused, run_stage

from minitrain.base import files, layout
from minitrain.training import checkpoint
from minitrain.training.state import initial_state
from proofs.project import SHORT, copy_project, set_params, tree

KILLED_AT_STEP_5 = """
import os
from minitrain.training import run
from stages import train

def killed(*args, real=run.train):
    for event in real(*args):
        yield event
        if isinstance(event, run.Step) and event.step == 5:
            os._exit(9)

run.train = killed
train.main()
"""


def killed_training(project: Path) -> str:
    """What a training prints that is killed at step 5, after its checkpoint of step 0."""
    command = [sys.executable, "-u", "-c", KILLED_AT_STEP_5]
    killed = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert killed.returncode == 9, killed.stderr
    return killed.stdout


def test_a_run_of_another_setting_leaves_the_checkpoints_of_an_unfinished_one(untrained):
    killed_training(untrained)
    (folder,) = untrained.glob("checkpoints/*")
    before = tree(folder)
    assert "step-000000000.safetensors" in before
    set_params(untrained, {"train.lr": 0.002})
    assert run_stage(untrained, "train").returncode == 0
    assert [path.name for path in untrained.glob("checkpoints/*")] == [folder.name]  # the ended run's are gone
    assert tree(folder) == before
    set_params(untrained, SHORT | {"train.lr": 0.003})
    assert "going on from step 0 " in run_stage(untrained, "train").stdout


def test_a_start_says_how_many_others_are_unfinished_and_how_large_they_are(untrained):
    assert "unfinished" not in killed_training(untrained)
    assert "unfinished" not in killed_training(untrained)  # its own are no others
    (untrained / "checkpoints/mine").mkdir()
    for lr in (0.002, 0.001):
        set_params(untrained, {"train.lr": lr})
        printed = killed_training(untrained)
    size = sum(map(len, tree(untrained / "checkpoints").values())) * 2 / 3 / 1e6
    assert f"checkpoints holds 2 other unfinished runs, {size:.1f} MB. " in printed


def test_a_training_of_a_setting_that_is_at_work_in_another_folder_is_refused(untrained, tmp_path):
    """An experiment in a temporary folder of DVC's has its checkpoints in the project, where the same setting may train."""
    experiment = untrained / ".dvc/tmp/exps/tmp1"
    shutil.copytree(untrained, tmp_path / "copy")
    experiment.parent.mkdir(parents=True)
    (tmp_path / "copy").rename(experiment)
    killed_training(untrained)
    (folder,) = untrained.glob("checkpoints/*")
    before = tree(folder)
    with files.exclusive_lock(folder):
        message = refused(run_stage(experiment, "train", DVC_ROOT=str(untrained)))
        assert f"{folder}: another run is at work here" in message
        set_params(experiment, {"train.lr": 0.002})
        assert run_stage(experiment, "train", DVC_ROOT=str(untrained)).returncode == 0
    assert tree(folder) == before


def test_starting_over_keeps_the_folder_for_it_is_locked(tmp_path, capsys):
    state = initial_state(TINY_MODEL, TINY_TRAIN)
    state.scheduler.step, state.best.loss = TINY_TRAIN.steps, 1.0
    checkpoint.save_working(tmp_path / "run", state, TINY_TRAIN)
    before = (tmp_path / "run").stat()
    assert checkpoint.resume(tmp_path / "run", TINY_MODEL, TINY_TRAIN).step == 0
    assert "starting over" in capsys.readouterr().out
    assert os.path.samestat(before, (tmp_path / "run").stat())
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "root", "expected"),
    [
        (".dvc/tmp/exps/standalone/tmp1", ".", "checkpoints"),
        (".dvc/tmp/exps/tmp1", ".", "checkpoints"),
        (".", ".", "checkpoints"),
        ("elsewhere", ".", "elsewhere/checkpoints"),  # a DVC_ROOT that was left over from another project
        (".dvc/tmp/exps/tmp1", None, ".dvc/tmp/exps/tmp1/checkpoints"),
    ],
)
def test_checkpoints_are_in_the_project_whose_experiment_it_is(tmp_path, monkeypatch, folder, root, expected):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    if root:
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / root))
    assert layout.checkpoints().resolve() == tmp_path / expected


def test_an_experiment_that_dvc_runs_in_a_temporary_folder_goes_on_after_ctrl_c(tmp_path):
    project = copy_project(tmp_path / "project", {**SHORT, "train.steps": 100})
    (project / ".gitignore").write_text("/checkpoints\n/mlflow.db\n/mlruns\n__pycache__/\n")
    commit = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "all"]
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"], commit):
        subprocess.run(command, cwd=project, check=True, capture_output=True)
    experiment = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "train"]
    first = subprocess.Popen(
        experiment, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while not list(project.glob("checkpoints/*/step-*.safetensors")) and first.poll() is None:
        os.sched_yield()
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    printed, _ = first.communicate()
    (folder,) = project.glob("checkpoints/*")
    assert f"saved in {folder}. To go on: dvc repro (in an experiment: the same dvc exp run)" in printed
    assert list(project.glob(".dvc/tmp/exps/**/params.yaml")) == []  # the temporary folder is gone
    again = subprocess.run(experiment, cwd=project, capture_output=True, text=True, check=True)
    assert f"({folder})" in again.stdout
    assert "going on from step " in again.stdout
    assert list(project.glob("checkpoints/*")) == []
