"""The stages as a user meets them: what a small run of the pipeline leaves, and what must not change it."""

import csv
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import edit

from minitrain.base import files
from proofs.project import SHORT, copy_project, set_params, tree


def test_a_run_leaves_the_files_of_the_contract(ran):
    project, _ = ran
    models = set(tree(project / "models"))
    stem = next(name for name in models if name.endswith(".manifest.json")).removesuffix(".manifest.json")
    assert models == {
        f"{stem}.safetensors",
        f"{stem}.manifest.json",
        f"{stem}.state.safetensors",
        "evidence/kept.safetensors",
        "evidence/probe.safetensors",
    }
    digest = files.sha256_file(project / "models" / f"{stem}.safetensors")
    assert stem == f"minigpt-phase18-{digest[:12]}"
    assert set(tree(project / "data/batches")) == {
        *(f"{split}.safetensors" for split in ("train", "val", "test")),
        *("tokenizer.json", "cells.json", "summary.json"),
    }


def test_the_manifest_names_what_the_run_was_made_of_and_nothing_volatile(ran):
    project, _ = ran
    path = next((project / "models").glob("*.manifest.json"))
    manifest = json.loads(path.read_text())
    assert manifest["schema_version"] == 1
    assert {
        "seed",
        "config",
        "config_hash",
        "data_manifest_sha256",
        "code_digest",
        "packages",
        "numerics",
        "step",
    } <= set(manifest)
    for name, digest in manifest["files"].items():
        assert files.sha256_file(project / "models" / name) == digest
    text = path.read_text()
    assert str(project) not in text
    assert "20" + time.strftime("%y-") not in text


def test_the_log_has_every_step_once(ran):
    project, _ = ran
    rows = list(csv.DictReader((project / "plots/train/log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(24))
    assert list(rows[0]) == ["step", "loss", "lr", "grad_norm"]


def test_the_round_trip_holds_for_each_state_machine(ran):
    metrics = json.loads((ran[0] / "plots/checkpoint-roundtrip-verify/metrics.json").read_text())
    assert set(metrics["state_machines"]) >= {"model", "optimizer", "scheduler", "data", "rng"}
    assert all(metrics["state_machines"].values())
    assert metrics["resumed_run_ends_in_same_state"] is True
    assert metrics["kept_step"] == 18
    assert metrics["bytes"]["model"] > 4 * 103_680


def test_drift_is_measured_at_every_layer(ran):
    metrics = json.loads((ran[0] / "plots/fp16-drift/metrics.json").read_text())
    layers = {"embed_out", "block_0_out", "block_1_out", "final_ln_out", "logits"}
    assert set(metrics["largest_activation"]) == layers
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            assert set(metrics[name][mode]["layers"]) == layers
            # A table of rounded numbers is within the bound of one rounding, whatever comes after.
            assert metrics[name][mode]["layers"]["embed_out"]["relative_l2"] <= metrics[name]["unit_roundoff"]
    assert (
        metrics["fp16"]["weights"]["layers"]["logits"]["relative_l2"]
        < metrics["bf16"]["weights"]["layers"]["logits"]["relative_l2"]
    )
    page = (ran[0] / "plots/fp16-drift/argmax_flips.md").read_text()
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            rows = [line for line in page.splitlines() if line.startswith(f"| {name} | {mode.replace('_', ' ')} |")]
            assert sum(int(row.split("|")[-2]) for row in rows) == metrics[name][mode]["argmax_flips"]


def test_the_comparison_has_the_keys_of_the_contract(ran):
    metrics = json.loads((ran[0] / "plots/baseline-compare/metrics.json").read_text())
    for split in ("val", "test"):
        of_split = metrics[split]
        assert set(of_split["add_alpha"]) == set("1234567")
        assert set(of_split["kneser_ney"]) == set("234567")
        best = min(*of_split["add_alpha"].values(), *of_split["kneser_ney"].values())
        assert of_split["best_baseline_ppl"] == best
        assert of_split["ratio_to_best_baseline"] == pytest.approx(of_split["model_ppl"] / best, rel=1e-5)
        assert 1.3 < of_split["floor_ppl"] < 1.5
        assert set(of_split["model_ppl_by"]) == {"english_regularity", "direction", "half"}


def test_running_a_stage_again_leaves_the_same_bytes(ran, run):
    project, _ = ran
    before = tree(project / "plots")
    for stage in ("fp16_drift", "baseline_compare"):
        assert run(project, f"stages.{stage}").returncode == 0
    assert tree(project / "plots") == before


# Loaded by Python at its start: the wall clock jumps by up to a year, forwards and back, each time somebody looks.
JUMPING_CLOCK = """
import random, time
now, jumps = time.time, random.Random(18)
time.time = lambda: now() + jumps.uniform(-3e7, 3e7)
"""


def test_one_core_a_jumping_clock_another_locale_and_time_zone_leave_the_same_bytes(ran, tmp_path):
    project = copy_project(tmp_path / "one-core", SHORT)
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    core = min(os.sched_getaffinity(0))
    elsewhere = {
        **{"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONPATH": str(tmp_path)},
        **{"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # text is ASCII if nobody says UTF-8
    }
    for stage in ran[1]:
        subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=project,
            env={**os.environ, **elsewhere},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            check=True,
            capture_output=True,
        )
    assert tree(project, "data/batches", "models", "plots") == tree(ran[0], "data/batches", "models", "plots")


def test_a_stage_whose_stderr_is_closed_runs_all_the_same(project):
    set_params(project, {**SHORT, "train.steps": 1})
    for stage in ("shard_to_batches", "train"):
        command = f"exec {sys.executable} -m stages.{stage} 2>&-"
        assert subprocess.run(command, shell=True, cwd=project, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_notebooks_backend_does_not_matter(ran, run):
    result = run(ran[0], "stages.fp16_drift", MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert result.returncode == 0, result.stderr


def test_where_bits_are_not_promised_training_says_so(tmp_path, run):
    project = copy_project(tmp_path / "elsewhere", {**SHORT, "train.steps": 1})
    edit(project / "minitrain/base/numerics.py", {'"openblas_core": "Haswell"': '"openblas_core": "Another"'})
    assert run(project, "stages.shard_to_batches").returncode == 0
    result = run(project, "stages.train")
    assert result.returncode == 0, result.stderr
    assert "note: equal bytes are not promised on this machine (its openblas_core)" in result.stdout
