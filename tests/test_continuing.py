"""A training that was stopped, killed or left beside another: the next one goes on, or begins anew, and ends the same.

A real SIGKILL at every moment: proofs/kills.py.
"""

import re
import signal
from pathlib import Path

import pytest
from conftest import refused, run_python, run_stage

from minitrain import tracking
from minitrain.base import files
from proofs.project import set_params, tree


@pytest.fixture(autouse=True)
def without_mlflow(monkeypatch):
    """It takes seconds, and changes no output."""
    monkeypatch.setattr(tracking, "log_run", lambda *args: "")


def trained(project: Path) -> dict[str, bytes]:
    """What the training leaves; the picture beside its tables is drawn by a later stage."""
    return {name: data for name, data in tree(project, "models", "plots/train").items() if not name.endswith(".png")}


def train_without_cleaning_up(project: Path, monkeypatch) -> str:
    """Train, but end before the working checkpoints are removed, as one does that is killed there; what it printed."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "log_run", die)  # the last step before
        ended = run_stage(project, "train")
    assert ended.returncode == 128 + signal.SIGINT, ended.stderr
    return ended.stdout


def test_training_again_trains_again(ran, whole):
    """A finished run leaves no working checkpoint from which the next would only be exported again."""
    assert list(ran.glob("checkpoints/*")) == []
    result = run_stage(whole, "train")
    assert "going on from step" not in result.stdout
    assert "step 0: val loss" in result.stdout
    assert trained(whole) == trained(ran)


def test_a_training_beside_another_is_refused_and_harms_nothing(untrained):
    """A dvc that is ended by SIGTERM leaves its stage at work; dvc repro would then start a second one."""
    with files.exclusive_lock(untrained):
        before = tree(untrained)
        assert f"{untrained}: another run is at work here" in refused(run_stage(untrained, "train"))
        assert tree(untrained) == before


@pytest.mark.parametrize("left", [slice(-1), None], ids=["cut off", "gone"])
def test_without_a_whole_mid_run_checkpoint_a_run_starts_over(untrained, monkeypatch, left):
    train_without_cleaning_up(untrained, monkeypatch)
    before = tree(untrained, "models", "plots/train", "checkpoints")
    (kept,) = untrained.glob("checkpoints/*/kept.safetensors")
    content = kept.read_bytes()
    kept.unlink()
    if left:
        kept.write_bytes(content[left])
    printed = train_without_cleaning_up(untrained, monkeypatch)
    assert re.search(r"kept\.safetensors: .*\nstarting over\n", printed)
    assert tree(untrained, "models", "plots/train", "checkpoints") == before


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
def test_a_stopped_run_saves_first_and_goes_on_from_there_to_the_same_bytes(ran, untrained, how):
    stopped = run_python(untrained, "-c", STOPS_AT_STEP_5.format(number=int(how)))
    (saved,) = untrained.glob("checkpoints/*/step-000000005.safetensors")
    message = f"stopped by {how.name} after step 5; saved in {saved.parent.relative_to(untrained)}. To go on: dvc repro"
    assert (stopped.returncode, message in stopped.stderr) == (128 + how, True), stopped.stderr
    assert not (untrained / "models").exists()
    assert "going on from step 5 " in run_stage(untrained, "train").stdout
    assert trained(untrained) == trained(ran)


def test_a_checkpoint_of_other_parameters_or_code_is_not_used(untrained, monkeypatch):
    train_without_cleaning_up(untrained, monkeypatch)
    set_params(untrained, {"train.lr": 0.002})
    assert "going on from step" not in train_without_cleaning_up(untrained, monkeypatch)
    with (untrained / "minitrain/loop.py").open("a") as file:
        file.write("# another line of training code\n")
    assert "going on from step" not in train_without_cleaning_up(untrained, monkeypatch)
    assert len(list(untrained.glob("checkpoints/*"))) == 3
