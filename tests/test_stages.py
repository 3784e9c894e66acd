"""What a small run of the pipeline leaves, and what must not change it."""

import json
import os
import subprocess
import sys

import pytest

from course import plain
from minitrain.base import files, layout
from minitrain.base.layout import STAGES
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.training import run
from proofs.project import SHORT, copy_project, tree


def read(ran, table: str) -> dict:
    return json.loads((ran / "plots" / table).read_text())


def test_a_run_leaves_the_files_of_the_contract(ran):
    models = set(tree(ran / "models"))
    (stem,) = {name.removesuffix(".manifest.json") for name in models if name.endswith(".manifest.json")}
    assert models == {
        *(f"{stem}.safetensors", f"{stem}.manifest.json", f"{stem}.state.safetensors"),
        *("tokenizer.json", "evidence/kept.safetensors", "evidence/probe.safetensors"),
    }
    assert stem == f"minigpt-phase18-{files.sha256_file(ran / 'models' / f'{stem}.safetensors')[:12]}"
    assert set(tree(ran / "data/batches")) == {
        *("train.safetensors", "val.safetensors", "test.safetensors"),
        *("tokenizer.json", "cells.json", "summary.json"),
    }


def test_the_round_trip_compares_each_state_machine(ran):
    assert set(read(ran, "checkpoint-roundtrip-verify/roundtrip.json")["state_machines"]) >= {
        *("model", "optimizer", "scheduler", "data", "rng")
    }


def test_drift_is_measured_at_every_layer(ran):
    metrics = read(ran, "fp16-drift/drift.json")
    page = (ran / "plots/fp16-drift/argmax_flips.md").read_text().splitlines()
    layers = {"embed_out", "block_0_out", "block_1_out", "final_ln_out", "logits"}
    assert set(metrics["largest_activation"]) == layers
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            of_mode = metrics[name][mode]
            assert set(of_mode["layers"]) == layers
            # A table of rounded numbers is within the bound of one rounding, whatever comes after.
            assert of_mode["layers"]["embed_out"]["relative_l2"] <= metrics[name]["unit_roundoff"]
            flips = [line.split("|")[-2] for line in page if line.startswith(f"| {name} | {mode.replace('_', ' ')} |")]
            assert sum(map(int, flips)) == of_mode["argmax_flips"]
    fp16, bf16 = (metrics[name]["weights"]["layers"]["logits"]["relative_l2"] for name in ("fp16", "bf16"))
    assert fp16 < bf16


def test_the_plain_twin_of_the_course_learns_on_what_the_first_stage_leaves(ran, monkeypatch, capsys):
    monkeypatch.chdir(ran)
    plain.main()
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)


def test_training_shows_the_n_grams_only_beside_the_validation_set_that_they_were_scored_on(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(ran)
    stores = read_dataset(layout.BATCHES, read_params().model).stores
    best = read(ran, "baseline-compare/scores.json")["val"]["best_baseline_ppl"]
    assert run.best_ngram(stores["val"]) == f" (n-grams {best:.2f})"
    assert run.best_ngram(stores["train"]) == ""
    monkeypatch.chdir(tmp_path)  # where nothing was compared
    assert run.best_ngram(stores["val"]) == ""


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_comparison_has_the_keys_of_the_contract(ran, split):
    scores = read(ran, "baseline-compare/scores.json")[split]
    assert set(scores["add_alpha"]) == set("1234567")
    assert set(scores["kneser_ney"]) == set("234567")
    best = min(*scores["add_alpha"].values(), *scores["kneser_ney"].values())
    assert scores["best_baseline_ppl"] == best
    assert scores["ratio_to_best_baseline"] == pytest.approx(scores["model_ppl"] / best, rel=1e-5)
    assert 1.3 < scores["floor_ppl"] < 1.5
    assert set(scores["model_ppl_by"]) == {"english_regularity", "direction", "half"}


# Loaded by Python at its start: the wall clock jumps by up to a year, forwards and back, each time somebody looks.
JUMPING_CLOCK = """
import random, time
now, jumps = time.time, random.Random(18)
time.time = lambda: now() + jumps.uniform(-3e7, 3e7)
"""


def test_one_core_a_jumping_clock_and_another_environment_leave_the_same_bytes(ran, tmp_path):
    project = copy_project(tmp_path / "elsewhere", SHORT)
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    elsewhere = {
        **{"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONPATH": str(tmp_path)},
        **{"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # text is ASCII if nobody says UTF-8
        **{"MPLBACKEND": "module://matplotlib_inline.backend_inline"},  # as in a notebook
    }
    core = min(os.sched_getaffinity(0))
    for stage in STAGES:
        subprocess.run(
            [sys.executable, "-W", "error", "-m", f"stages.{stage.replace('-', '_')}"],
            cwd=project,
            env={**os.environ, **elsewhere},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            check=True,
            capture_output=True,
        )
    assert tree(project, "data/batches", "models", "plots") == tree(ran, "data/batches", "models", "plots")
