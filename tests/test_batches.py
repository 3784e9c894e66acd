"""From rows to stores, and from stores to batches: order, padding and masks."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_store

from minitrain.base import files, formats, tensors
from minitrain.base.errors import UserError
from minitrain.dataset import build
from minitrain.dataset.batches import DataIterator, make_microshards, pad
from minitrain.dataset.read import read_dataset
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import BOS, EOS, PAD
from minitrain.params import read_params


def store_of(*sequences):
    tokens, offsets = np.concatenate(sequences).astype(np.uint16), np.cumsum([0, *map(len, sequences)])
    return TokenStore(tokens, offsets, np.zeros(len(sequences), np.int32), np.zeros(len(sequences), np.uint8))


# --- the order of data -------------------------------------------------------------------------------


def order(data, n, batch_size, steps):
    """The ids of some batches, one list."""
    return np.concatenate([data.next_ids(n, batch_size) for _ in range(steps)]).tolist()


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(10, 4, 15), (3, 8, 4)])
def test_every_epoch_is_another_permutation_and_batches_run_across_its_end(n, batch_size, steps):
    data = DataIterator(seed=18)
    ids = order(data, n, batch_size, steps)
    epochs = [ids[start : start + n] for start in range(0, len(ids) - n + 1, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert any(epoch != epochs[0] for epoch in epochs)
    assert (data.epoch, data.position) == divmod(batch_size * steps, n)


def test_the_order_is_a_pure_function_of_seed_and_place():
    head = DataIterator(seed=18)
    ids = order(head, 10, 4, 4)
    tail = DataIterator(18, head.epoch, head.position)
    assert ids + order(tail, 10, 4, 8) == order(DataIterator(seed=18), 10, 4, 12)
    assert order(DataIterator(seed=19), 10, 4, 4) != ids


# --- microshards -------------------------------------------------------------------------------------


def test_padding_targets_and_mask():
    shard = pad(store_of([BOS, 7, EOS], [BOS, 8, 9, EOS]), np.array([1, 0]))
    assert shard.tokens.tolist() == [[BOS, 8, 9], [BOS, 7, PAD]]  # nothing follows <eos>, so it is not read
    assert shard.targets.tolist() == [[8, 9, EOS], [7, EOS, PAD]]
    assert shard.loss_mask.tolist() == [[True, True, True], [True, True, False]]
    assert shard.n_targets == 5


@pytest.mark.parametrize(("n_sequences", "n_shards"), [(11, 4), (10, 1), (2, 4)])
def test_microshards_hold_each_sequence_once_the_longest_first_equals_in_their_order(n_sequences, n_shards):
    store = random_store(11, seed=4)
    ids = np.arange(11)[::-1][:n_sequences]
    shards = make_microshards(store, ids, n_shards)
    read = [row[: mask.sum()].tolist() for s in shards for row, mask in zip(s.tokens, s.loss_mask, strict=True)]
    assert read == [store.sequences()[i][:-1].tolist() for i in sorted(ids, key=lambda i: -store.lengths[i])]
    assert all(shard.loss_mask.any(axis=0).all() for shard in shards)  # no column is all padding
    assert len(shards) == min(n_sequences, n_shards)


def test_microshards_cost_the_same_however_lengths_differ():
    """A token costs 100 and its sequence's length: one sequence of 60 tokens is as much work as four of 20."""
    shards = make_microshards(store_of(*map(np.ones, [60, 20, 20, 20, 20])), np.arange(5), 2)
    assert [len(shard.tokens) for shard in shards] == [1, 4]


# --- from rows to stores -----------------------------------------------------------------------------


def test_a_row_becomes_both_directions(rows):
    row = next(row for row in rows if row.cell == "go.past_simple.1sg")
    assert build.texts([row]) == ["es:yo fui / en:I went", "en:I went / es:yo fui"]


def test_a_store_holds_every_text_with_its_cell_and_direction(rows, bpe):
    names = sorted(row.cell for row in rows)
    store, unknown = build.make_store(rows, {name: i for i, name in enumerate(names)}, bpe, 32, {})
    assert (len(store), unknown) == (640, 0)
    assert [bpe.decode(sequence) for sequence in store.sequences()] == build.texts(rows)
    assert [names[i] for i in store.cell] == [row.cell for row in rows for _ in range(2)]
    assert store.direction.tolist() == [0, 1] * 320


def test_a_sequence_longer_than_the_context_is_named_with_its_place(rows, bpe):
    cells = {row.cell: i for i, row in enumerate(rows)}
    places = {row.id: f"x.jsonl:{i}" for i, row in enumerate(rows)}
    with pytest.raises(UserError, match=r"x\.jsonl:\d+: expected at most 21 tokens \(model\.context \+ 1\)") as caught:
        build.make_store(rows, cells, bpe, 20, places)
    number = int(str(caught.value).split(":")[1])
    assert rows[number].text in str(caught.value)


# --- the dataset as a whole --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(root):
    return read_params(root / "params.yaml")


@pytest.fixture(scope="module")
def built(params, corpus):
    return build.build_dataset(params, corpus, "the manifest's digest")


@pytest.fixture
def folder(built, tmp_path):
    files.write_all(tmp_path / "batches", built[0])
    return tmp_path / "batches"


def test_what_is_built_comes_back(params, rows, built, folder):
    dataset = read_dataset(folder, params.model)
    assert dataset.digests == {name: files.sha256(data) for name, data in built[0].items()}
    assert dataset.data_manifest_sha256 == "the manifest's digest"
    assert {split: len(store) for split, store in dataset.stores.items()} == {"train": 460, "val": 90, "test": 90}
    for split, store in dataset.stores.items():
        assert tensors.encode_tensors(vars(store)) == built[0][f"{split}.safetensors"]
        assert {dataset.cells[i]["split"] for i in store.cell} == {split}
    assert [cell["cell"] for cell in dataset.cells] == sorted(row.cell for row in rows)
    assert dataset.cells[0] == {
        **{"cell": "be.future_going_to.1sg", "verb": "be", "tense": "future_going_to", "person": "1sg"},
        **{"english_regularity": "irregular", "spanish_regularity": "irregular", "split": dataset.cells[0]["split"]},
    }


def test_the_table_of_lengths_counts_every_sequence_once(built):
    table = np.loadtxt(built[1]["lengths.csv"].decode().splitlines(), delimiter=",", skiprows=1)
    assert table[:, 1:].sum(axis=0).tolist() == [460, 90, 90]


def test_a_text_in_two_splits_is_a_leak(params, corpus, rows):
    sentences = {key: getattr(rows[0], key) for key in ("text", "spanish", "fingerprint")}
    alike = {place: replace(row, **sentences) for place, row in corpus.correct_rows.items()}
    with pytest.raises(UserError, match=f"{rows[0].text}.*is in train and in val: two cells have the same sentences"):
        build.build_dataset(params, replace(corpus, rows=alike), "")


@pytest.mark.parametrize("name", ["tokenizer.json", "cells.json", "train.safetensors", "val.safetensors"])
def test_a_changed_or_missing_file_is_named(params, folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=rf"{name}: expected the sha256 "):
        read_dataset(folder, params.model)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_dataset(folder, params.model)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nowhere", {}, "nowhere/summary.json: cannot be read: .* what a stage leaves is made by: dvc repro"),
        ("batches", {"vocab_size": 65}, r"batches: expected 65 tokens \(model\.vocab_size\) .* got 64 in"),
        ("batches", {"context": 20}, r"batches: .* at most 21 \(model\.context \+ 1\), got 64 in .* up to 32"),
    ],
)
def test_a_dataset_that_is_not_there_or_of_another_model_is_named(params, folder, name, change, message):
    with pytest.raises(UserError, match=message):
        read_dataset(folder.parent / name, replace(params.model, **change))


@pytest.mark.parametrize(
    "summary",
    [
        5,
        {"files": {}},
        {"data_manifest_sha256": "x"},
        {"data_manifest_sha256": "x", "files": 5},
        {"data_manifest_sha256": "x", "files": {}},
    ],
)
def test_a_summary_that_says_too_little_is_named(params, folder, summary):
    files.write_bytes(folder / "summary.json", formats.json_bytes(summary))
    with pytest.raises(UserError, match=r"summary\.json: .* Make it again with: dvc repro --force shard-to-batches"):
        read_dataset(folder, params.model)
