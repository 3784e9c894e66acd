"""What a small run of the pipeline leaves, and what must not change it."""

import contextlib
import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from course import plain
from minitrain.base import files, layout
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.scoring import token_nll
from minitrain.training.export import read_model
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


def test_drift_is_measured_at_every_layer(ran):
    metrics = read(ran, "fp16-drift/drift.json")
    page = (ran / "plots/fp16-drift/argmax_flips.md").read_text().splitlines()
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            of_mode = metrics[name][mode]
            assert set(of_mode["layers"]) == {"embed_out", "block_0_out", "block_1_out", "final_ln_out", "logits"}
            # A table of rounded numbers is within the bound of one rounding, whatever comes after.
            assert of_mode["layers"]["embed_out"]["relative_l2"] <= metrics[name]["unit_roundoff"]
            flips = [line.split("|")[-2] for line in page if line.startswith(f"| {name} | {mode.replace('_', ' ')} |")]
            assert sum(map(int, flips)) == of_mode["argmax_flips"]


def test_the_plain_twin_of_the_course_learns_on_what_the_first_stage_leaves(ran, monkeypatch, capsys):
    monkeypatch.chdir(ran)
    plain.main()
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_comparison_has_the_keys_of_the_contract(ran, split):
    scores = read(ran, "baseline-compare/scores.json")[split]
    assert (set(scores["add_alpha"]), set(scores["kneser_ney"])) == (set("1234567"), set("234567"))
    assert scores["best_baseline_ppl"] == min(*scores["add_alpha"].values(), *scores["kneser_ney"].values())
    ratio = scores["model_ppl"] / scores["best_baseline_ppl"]
    assert scores["ratio_to_best_baseline"] == pytest.approx(ratio, rel=1e-5)
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
    for stage in layout.STAGES:
        subprocess.run(
            [sys.executable, "-W", "error", "-m", f"stages.{stage.replace('-', '_')}"],
            cwd=project,
            env={**os.environ, **elsewhere},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            check=True,
            capture_output=True,
        )
    assert tree(project, "data/batches", "models", "plots") == tree(ran, "data/batches", "models", "plots")


# --- the tables behind the plots of cells, tokens and masks -----------------------------------------------


@pytest.fixture(scope="module")
def dataset(ran):
    return read_dataset(ran / layout.BATCHES, read_params(ran / "params.yaml").model)


@pytest.fixture(scope="module")
def model(ran):
    with contextlib.chdir(ran):
        return read_model(layout.MODELS, read_params().model).model()


def rows(ran, name: str) -> list[dict[str, str]]:
    with (ran / "plots/baseline-compare" / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


def nll_by_sentence(model, store) -> list[np.ndarray]:
    return np.split(token_nll(model, store), np.cumsum(store.lengths - 1)[:-1])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_loss_of_a_cell_is_the_mean_over_the_targets_of_its_sentences(ran, dataset, model, split):
    store = dataset.stores[split]
    of_cell = {}
    for cell, nll in zip(store.cell.tolist(), nll_by_sentence(model, store), strict=True):
        of_cell.setdefault(dataset.cells[cell]["cell"], []).extend(nll.tolist())
    of_split = [row for row in rows(ran, "cells.csv") if row["split"] == split]
    losses = {f"{r['verb']}.{r['tense']}.{r['person']}".removesuffix(".none"): float(r["loss"]) for r in of_split}
    assert losses == pytest.approx({name: np.mean(nll) for name, nll in of_cell.items()}, rel=1e-5)


def test_the_chosen_sentences_are_the_best_and_the_worst_of_the_test_split(ran, dataset, model):
    store, table = dataset.stores["test"], rows(ran, "tokens.csv")
    nll = sorted(nll_by_sentence(model, store), key=np.mean)
    for name, chosen in (("best", nll[:3]), ("worst", nll[:-4:-1])):
        for rank, of_sentence in enumerate(chosen, start=1):
            shown = [row for row in table if row["sentence"] == f"{name} {rank}"]
            assert [float(row["probability"]) for row in shown] == pytest.approx(np.exp(-of_sentence), rel=1e-5)
            sentence = "".join(row["token"] for row in shown)
            assert sentence.removesuffix("<eos>") in map(dataset.tokenizer.decode, store.sequences())


def test_a_position_sees_itself_and_what_is_before_it_but_no_pad_and_its_target_is_the_next_token(ran):
    table = rows(ran, "masks.csv")
    token = {(row["sequence"], int(row["query"])): row["token"] for row in table}
    for row in table:
        query, key = int(row["query"]), int(row["key"])
        visible = key <= query and token[row["sequence"], key] != "<pad>"
        assert int(row["attention_mask"]) == visible
        assert int(row["loss_mask"]) == (row["token"] != "<pad>")
        following = token.get((row["sequence"], query + 1), "<pad>")
        assert row["target"] == ("<eos>" if row["loss_mask"] == "1" and following == "<pad>" else following)
    assert {row["loss_mask"] for row in table} == {"0", "1"}
