"""A training that was stopped, killed or left beside another: the next one goes on, or begins anew, and ends the same.
None costs another its checkpoints, in whatever folder it runs.

A real SIGKILL at every moment: proofs/kills.py.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import refused, run_python, run_stage
from mlflow.tracking import MlflowClient

from minitrain import mlflow_store, tracking
from minitrain.base import files, layout
from proofs.project import DVC, SHORT, copy_project, make_repository, must_run, set_params, tree


@pytest.fixture(autouse=True)
def without_mlflow(monkeypatch):
    """It takes seconds, and changes no output."""
    monkeypatch.setattr(tracking, "log_run", lambda *args: "")


def trained(project: Path) -> dict[str, bytes]:
    """What the training leaves; the picture beside its tables is drawn by a later stage."""
    return {name: data for name, data in tree(project, "models", "plots/train").items() if not name.endswith(".png")}


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


def stopped_training(project: Path, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A training that gets a signal in step 5, after its checkpoint of step 0."""
    return run_python(project, "-c", STOPS_AT_STEP_5.format(number=int(how)))


def killed_training(project: Path) -> str:
    """What a training prints until it is killed."""
    killed = stopped_training(project, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return killed.stdout


def test_training_again_trains_again(ran, whole):
    """A finished run leaves no working checkpoint from which the next would only be exported again."""
    assert list(ran.glob("checkpoints/*")) == []
    result = run_stage(whole, "train")
    assert "going on from step" not in result.stdout
    assert "step 0: val perplexity" in result.stdout
    assert trained(whole) == trained(ran)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_first_and_goes_on_from_there_to_the_same_bytes(ran, untrained, how):
    stopped = stopped_training(untrained, how)
    (saved,) = untrained.glob("checkpoints/*/step-000000005.safetensors")
    message = f"stopped by {how.name} after step 5; saved in {saved.parent.relative_to(untrained)}.\nTo go on, run the same command again"
    assert (stopped.returncode, message in stopped.stderr) == (128 + how, True), stopped.stderr
    assert not (untrained / "models").exists()
    assert "going on from step 5 " in run_stage(untrained, "train").stdout
    assert trained(untrained) == trained(ran)


def test_a_checkpoint_of_other_parameters_or_code_is_not_used(untrained):
    """Each stays until its own run has ended."""
    killed_training(untrained)
    set_params(untrained, {"train.lr": 0.002})
    assert "going on from step" not in killed_training(untrained)
    with (untrained / "minitrain/loop.py").open("a") as file:
        file.write("# another line of training code\n")
    before = tree(untrained / "checkpoints")
    result = run_stage(untrained, "train")
    assert (result.returncode, "going on from step" in result.stdout) == (0, False)
    assert tree(untrained / "checkpoints") == before
    assert len({name.split("/")[0] for name in before}) == 2


def test_a_training_beside_another_is_refused_and_harms_nothing(untrained):
    """In one folder (a dvc that is ended by SIGTERM leaves its stage at work), or in two that share their checkpoints."""
    killed_training(untrained)
    (shared,) = untrained.glob("checkpoints/*")
    for folder in (untrained, shared):
        with files.exclusive_lock(folder):
            before = tree(untrained)
            assert f"{folder}: another run is at work here" in refused(run_stage(untrained, "train"))
            assert tree(untrained) == before


# --- several settings, each stopped before its end -------------------------------------------------------


def test_a_start_says_how_many_others_are_unfinished_and_how_large_they_are(untrained):
    (untrained / "checkpoints/mine").mkdir(parents=True)
    assert "unfinished" not in killed_training(untrained)
    for lr in (0.002, 0.003):  # another setting, then the first again, whose own checkpoints are no others
        set_params(untrained, {"train.lr": lr})
        printed = killed_training(untrained)
    size = sum(map(len, tree(untrained / "checkpoints").values())) / 2 / 1e6
    assert f"unfinished runs of other settings in checkpoints: 1, {size:.1f} MB. " in printed


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


def test_an_experiment_that_dvc_runs_in_a_temporary_folder_goes_on_after_ctrl_c_and_has_its_mlflow_run(tmp_path):
    project = copy_project(tmp_path / "project", {**SHORT, "train.steps": 100})
    make_repository(project)
    experiment = [*DVC, "exp", "run", "--temp", "--name", "mine", "train"]
    first = subprocess.Popen(
        experiment, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while not list(project.glob("checkpoints/*/step-*.safetensors")) and first.poll() is None:
        os.sched_yield()
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    printed, _ = first.communicate()
    (folder,) = project.glob("checkpoints/*")
    assert f"saved in {folder}.\nTo go on, run the same command again" in printed
    assert list(project.glob(".dvc/tmp/exps/**/params.yaml")) == []  # the temporary folder is gone
    again = must_run(project, *experiment)
    assert f"({folder})" in again
    assert "going on from step " in again
    assert list(project.glob("checkpoints/*")) == []
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(mlflow_store.EXPERIMENT).experiment_id])
    assert (run.info.run_name, run.data.tags["times"][:19]) == ("mine", "measured from step ")
