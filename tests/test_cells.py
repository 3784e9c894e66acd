"""The tables behind the plots of cells, tokens and masks, of a small run."""

import contextlib
import csv
import math

import numpy as np
import pytest

from minitrain.base import layout
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.scoring import token_nll
from minitrain.training.export import read_model


@pytest.fixture(scope="module")
def dataset(ran):
    return read_dataset(ran / layout.BATCHES, read_params(ran / "params.yaml").model)


@pytest.fixture(scope="module")
def model(ran):
    with contextlib.chdir(ran):
        return read_model(layout.MODELS, read_params().model).model()


@pytest.fixture
def table(ran):
    def read(name):
        with (ran / "plots/baseline-compare" / name).open(newline="") as lines:
            return list(csv.DictReader(lines))

    return read


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_loss_of_a_cell_is_the_mean_over_the_targets_of_its_sentences(dataset, model, table, split):
    store = dataset.stores[split]
    of_sentence = np.split(token_nll(model, store), np.cumsum(store.lengths - 1)[:-1])
    of_cell = {}
    for cell, nll in zip(store.cell.tolist(), of_sentence, strict=True):
        of_cell.setdefault(dataset.cells[cell]["cell"], []).extend(nll.tolist())
    rows = [row for row in table("cells.csv") if row["split"] == split]
    losses = {f"{r['verb']}.{r['tense']}.{r['person']}".removesuffix(".none"): float(r["loss"]) for r in rows}
    assert losses == pytest.approx({name: np.mean(nll) for name, nll in of_cell.items()}, rel=1e-5)


def test_the_chosen_sentences_are_the_best_and_the_worst_of_the_test_split(dataset, model, table):
    store = dataset.stores["test"]
    nll = np.split(token_nll(model, store), np.cumsum(store.lengths - 1)[:-1])
    losses = {dataset.tokenizer.decode(tokens): of.mean() for tokens, of in zip(store.sequences(), nll, strict=True)}
    best_first = sorted(losses, key=losses.get)
    chosen = {}
    for row in table("tokens.csv"):
        chosen.setdefault(row["sentence"], []).append((row["token"], float(row["probability"])))
    expected = [*best_first[:3], *best_first[:-4:-1]]
    assert list(chosen) == [f"{name} {rank}" for name in ("best", "worst") for rank in (1, 2, 3)]
    for sentence, tokens in zip(expected, chosen.values(), strict=True):
        assert "".join(token for token, _ in tokens) == f"{sentence}<eos>"
        mean = -sum(math.log(p) for _, p in tokens) / len(tokens)
        assert mean == pytest.approx(losses[sentence], rel=1e-5)


def test_a_position_sees_itself_and_what_is_before_it_but_no_pad_and_its_target_is_the_next_token(table):
    rows = table("masks.csv")
    token = {(row["sequence"], int(row["query"])): row["token"] for row in rows}
    for row in rows:
        query, key = int(row["query"]), int(row["key"])
        visible = key <= query and token[row["sequence"], key] != "<pad>"
        assert int(row["attention_mask"]) == visible
        assert int(row["loss_mask"]) == (row["token"] != "<pad>")
        following = token.get((row["sequence"], query + 1), "<pad>")
        assert row["target"] == ("<eos>" if row["loss_mask"] == "1" and following == "<pad>" else following)
    assert {row["loss_mask"] for row in rows} == {"0", "1"}
