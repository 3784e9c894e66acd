"""A training that was stopped, killed or left beside another: the next one goes on, or begins anew, and ends the same."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import refused

from proofs.project import SHORT, copy_project, set_params, tree

KILLED_AT_THE_END = """
import os
from stages import train

def write_all(folder, contents, real=train.files.write_all):
    real(folder, contents)
    if folder.name == "train":  # The plots are the last: all that is left to do is to remove the checkpoints.
        os._exit(0)

train.files.write_all = write_all
train.main()
"""


def trained(project: Path) -> dict[str, bytes]:
    """What the training leaves; the picture beside its tables is drawn by a later stage."""
    return {name: data for name, data in tree(project, "models", "plots/train").items() if not name.endswith(".png")}


def train_without_cleaning_up(project: Path) -> str:
    """Train, but leave the working checkpoints, as a run does that is killed at its very end; what that printed."""
    command = [sys.executable, "-u", "-c", KILLED_AT_THE_END]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


def test_training_again_trains_again(ran, run, tmp_path):
    """A finished run leaves no working checkpoint from which the next would only be exported again."""
    project = Path(shutil.copytree(ran[0], tmp_path / "again"))
    assert list(project.glob("checkpoints/*")) == []
    result = run(project, "stages.train")
    assert result.returncode == 0
    assert "going on from step" not in result.stdout
    assert "step 0: val loss" in result.stdout
    assert trained(project) == trained(ran[0])


def test_a_training_beside_another_is_refused_and_harms_nothing(ran, tmp_path, run):
    """A dvc that is ended by SIGTERM leaves its stage at work; dvc repro would then start a second one."""
    project = copy_project(tmp_path / "project", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    first = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=project, stdout=subprocess.DEVNULL)
    while not list(project.glob("checkpoints/*/step-*.safetensors")) and first.poll() is None:
        os.sched_yield()
    first.send_signal(signal.SIGSTOP)  # it must not end too soon
    assert "checkpoints: another run is at work here" in refused(run(project, "stages.train"))
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert trained(project) == trained(ran[0])
    assert run(project, "stages.train").returncode == 0


def test_a_folder_of_somebody_else_among_the_checkpoints_is_left_alone(project, run):
    set_params(project, {**SHORT, "train.steps": 1})
    for name in ("mine", "0123456789abcdef"):
        (project / "checkpoints" / name).mkdir(parents=True)
    assert run(project, "stages.shard_to_batches").returncode == 0
    assert run(project, "stages.train").returncode == 0
    assert [path.name for path in (project / "checkpoints").iterdir()] == ["mine"]


def test_what_a_killed_process_left_half_written_among_the_checkpoints_goes(project, run):
    set_params(project, {**SHORT, "train.steps": 1})
    assert run(project, "stages.shard_to_batches").returncode == 0
    train_without_cleaning_up(project)
    (folder,) = project.glob("checkpoints/*")
    (folder / ".step-000000002.safetensors.999999999.tmp").write_bytes(b"half")
    assert run(project, "stages.train").returncode == 0
    assert list(project.glob("checkpoints/*")) == []


def test_without_a_whole_mid_run_checkpoint_a_run_starts_over(project, run):
    set_params(project, {**SHORT, "train.steps": 4})
    assert run(project, "stages.shard_to_batches").returncode == 0
    train_without_cleaning_up(project)
    before = tree(project, "models", "plots/train", "checkpoints")
    (kept,) = project.glob("checkpoints/*/kept.safetensors")
    for content in (kept.read_bytes()[:-1], None):
        kept.unlink()
        if content is not None:
            kept.write_bytes(content)
        printed = train_without_cleaning_up(project)
        assert "starting over" in printed
        assert "kept.safetensors: " in printed
        assert tree(project, "models", "plots/train", "checkpoints") == before


def goes_on_to_the_same_bytes(project: Path, whole: Path, run) -> str:
    """Run the stopped training of a project to its end; what that printed."""
    assert not (project / "models").exists()
    again = run(project, "stages.train")
    assert again.returncode == 0, again.stderr
    assert trained(project) == trained(whole)
    return again.stdout


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(ran, tmp_path, run):
    project = copy_project(tmp_path / "killed", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(project.glob("checkpoints/*/step-*.safetensors")) and process.poll() is None:
        os.sched_yield()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "going on from step" in goes_on_to_the_same_bytes(project, ran[0], run)


STOPS_AT_STEP_5 = """
import os
from minitrain.base.process import run_command
from minitrain.training import run
from stages import train

def stopping(*args, real=run.train):
    steps = 0
    for event in real(*args):
        steps += isinstance(event, run.Step)
        if steps == 5:  # no checkpoint is due there
            os.kill(os.getpid(), {number})
        yield event

run.train = stopping
run_command(train.main)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_first_and_goes_on_from_there(ran, tmp_path, run, how):
    project = copy_project(tmp_path / "stopped", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    command = [sys.executable, "-c", STOPS_AT_STEP_5.format(number=int(how))]
    stopped = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    (saved,) = project.glob("checkpoints/*/step-000000005.safetensors")
    message = f"stopped by {how.name} after step 5; saved in {saved.parent.relative_to(project)}. To go on: dvc repro"
    assert (stopped.returncode, message in stopped.stderr) == (128 + how, True), stopped.stderr
    assert "going on from step 5 " in goes_on_to_the_same_bytes(project, ran[0], run)


def test_a_checkpoint_of_other_parameters_is_not_used_but_removed(tmp_path, run):
    project = copy_project(tmp_path / "stale", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    train_without_cleaning_up(project)
    (stale,) = project.glob("checkpoints/*")
    set_params(project, {"train.lr": 0.002})
    assert "going on from step" not in train_without_cleaning_up(project)
    assert not stale.exists()
    loop = project / "minitrain" / "loop.py"
    loop.write_text(loop.read_text() + "# another line of training code\n")
    assert "going on from step" not in train_without_cleaning_up(project)
    assert len(list(project.glob("checkpoints/*"))) == 1
