"""From rows to stores, and from stores to batches: order, padding and masks."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_store, store_of

from minitrain.base import UserError, files
from minitrain.dataset import build
from minitrain.dataset.batches import DataIterator, make_microshards, pad
from minitrain.dataset.read import read_dataset
from minitrain.dataset.tokenizer import BOS, EOS, PAD
from minitrain.params import read_params

# --- the order of data -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(10, 4, 15), (3, 8, 4)])
def test_every_epoch_is_another_permutation_and_batches_run_across_its_end(n, batch_size, steps):
    data = DataIterator(seed=18)
    ids = np.concatenate([data.next_ids(n, batch_size) for _ in range(steps)]).tolist()
    epochs = [ids[start : start + n] for start in range(0, len(ids) - n + 1, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert any(epoch != epochs[0] for epoch in epochs)
    assert (data.epoch, data.position) == divmod(batch_size * steps, n)


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


def test_a_store_holds_every_text_with_its_cell_and_direction(rows, bpe):
    names = sorted(row.cell for row in rows)
    store, unknown = build.make_store(rows, {name: i for i, name in enumerate(names)}, bpe, 32, {})
    decoded = [bpe.decode(sequence) for sequence in store.sequences()]
    assert decoded[::2] == [f"es:{row.spanish} / en:{row.text}" for row in rows]
    assert decoded[1::2] == [f"en:{row.text} / es:{row.spanish}" for row in rows]
    assert [names[i] for i in store.cell] == [row.cell for row in rows for _ in range(2)]
    assert (store.direction.tolist(), unknown) == ([0, 1] * 320, 0)


def test_a_sequence_longer_than_the_context_is_named_with_its_place(rows, bpe):
    short, long = (pick(rows, key=lambda row: len(row.text)) for pick in (min, max))
    places = {short.id: "x.jsonl:1", long.id: "x.jsonl:3"}
    expected = rf"^x\.jsonl:3: expected at most 21 tokens \(model\.context \+ 1\), got \d+ for '.*{long.text}"
    with pytest.raises(UserError, match=expected):
        build.make_store([short, short, long], {short.cell: 0, long.cell: 1}, bpe, 20, places)


# --- the dataset as a whole --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(root):
    return read_params(root / "params.yaml")


@pytest.fixture
def folder(params, corpus, tmp_path):
    files.write_all(tmp_path / "batches", build.build_dataset(params, corpus, "the manifest's digest")[0])
    return tmp_path / "batches"


def test_what_is_built_comes_back(params, rows, folder):
    dataset = read_dataset(folder, params.model)
    assert dataset.digests == {path.name: files.sha256(path.read_bytes()) for path in folder.iterdir()}
    assert dataset.data_manifest_sha256 == "the manifest's digest"
    assert {split: len(store) for split, store in dataset.stores.items()} == {"train": 460, "val": 90, "test": 90}
    for split, store in dataset.stores.items():
        assert {dataset.cells[i]["split"] for i in store.cell} == {split}
    assert [cell["cell"] for cell in dataset.cells] == sorted(row.cell for row in rows)
    assert dataset.cells[0] == {
        **{"cell": "be.future_going_to.1sg", "verb": "be", "tense": "future_going_to", "person": "1sg"},
        **{"english_regularity": "irregular", "spanish_regularity": "irregular", "split": dataset.cells[0]["split"]},
    }


def test_a_text_in_two_splits_is_a_leak(params, corpus, rows):
    sentences = {key: getattr(rows[0], key) for key in ("text", "spanish", "fingerprint")}
    alike = {place: replace(row, **sentences) for place, row in corpus.correct_rows.items()}
    with pytest.raises(UserError, match=f"{rows[0].text}.*is in train and in val: two cells have the same sentences"):
        build.build_dataset(params, replace(corpus, rows=alike), "")


def test_a_file_that_is_not_that_of_the_summary_is_named(params, folder):
    (folder / "val.safetensors").write_bytes((folder / "train.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"val\.safetensors: expected the sha256 "):
        read_dataset(folder, params.model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 65}, r"batches: expected 65 tokens \(model\.vocab_size\) .* got 64 in"),
        ({"context": 20}, r"batches: .* at most 21 \(model\.context \+ 1\), got 64 in .* up to 32"),
    ],
)
def test_a_dataset_of_another_model_is_named(params, folder, change, message):
    with pytest.raises(UserError, match=message):
        read_dataset(folder, replace(params.model, **change))
