"""What once passed the gate although it should not have: each of these was green."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import edit

from minitrain.gate import checks
from minitrain.gate.run import Run
from minitrain.params import read_params


@pytest.mark.parametrize("stray", ["shard-04.jsonl.bak", "notes.txt", "more/shard-00.jsonl"])
def test_a_file_too_many_in_the_shards_folder_fails_the_corpus_by_name(whole, monkeypatch, stray):
    path = whole / "data/shards" / stray
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    monkeypatch.chdir(whole)
    result = checks.evaluate("corpus", Run(read_params()))
    assert (result.passed, result.got) == (False, f"320 correct of 668 rows, different: {stray}")


def another_schedule(run: Run) -> None:
    run.state.scheduler.shape = replace(run.state.scheduler.shape, lr=0.004)


def another_data_seed(run: Run) -> None:
    run.state.data.seed += 1


def another_dropout_seed(run: Run) -> None:
    run.state.rng = np.random.Generator(np.random.PCG64([run.params.train.seed + 1, 1]))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (another_schedule, "schedule"),
        (another_data_seed, "data seed"),
        (another_dropout_seed, "dropout seed"),
    ],
)
def test_a_state_of_another_schedule_or_seed_than_params_yaml_fails_the_training_log(whole, monkeypatch, change, what):
    monkeypatch.chdir(whole)
    run = Run(read_params())
    assert checks.evaluate("training log", run).passed
    change(run)
    result = checks.evaluate("training log", run)
    assert (result.passed, result.got) == (False, f"24, different: {what}")


def test_a_log_with_another_learning_rate_than_params_yaml_fails_the_training_log(whole, monkeypatch):
    monkeypatch.chdir(whole)
    edit(whole / "plots/train/log.csv", {",0.003,": ",0.00300001,"})
    result = checks.evaluate("training log", Run(read_params()))
    assert (result.passed, result.got) == (False, "24, different: learning rates")
