"""Data order, padding and masks; from rows to stores."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import random_store

from minitrain.base import files, formats, tensors
from minitrain.base.errors import UserError
from minitrain.corpus.shards import read_corpus
from minitrain.dataset import build
from minitrain.dataset.batches import DataIterator, make_microshards, pad
from minitrain.dataset.read import decode_cells, read_dataset
from minitrain.dataset.stores import SPLITS, TokenStore
from minitrain.dataset.tokenizer import BOS, EOS, PAD, train_tokenizer
from minitrain.params import ModelConfig, read_params


def order(n, seed, batch_size, steps, epoch=0, position=0):
    data = DataIterator(seed, epoch, position)
    batches = [data.next_ids(n, batch_size).tolist() for _ in range(steps)]
    return batches, data.epoch, data.position


def test_every_epoch_is_a_permutation_and_batches_run_across_its_end():
    batches, epoch, position = order(10, 18, 4, 15)  # six epochs
    flat = [i for batch in batches for i in batch]
    for start in range(0, 60, 10):
        assert sorted(flat[start : start + 10]) == list(range(10))
    assert flat[:10] != flat[10:20]
    assert (epoch, position) == (6, 0)


def test_the_order_is_a_pure_function_of_seed_and_place():
    whole, _, _ = order(10, 18, 4, 12)
    head, epoch, position = order(10, 18, 4, 5)
    tail, _, _ = order(10, 18, 4, 7, epoch, position)
    assert head + tail == whole
    assert order(10, 19, 4, 12)[0] != whole


def test_a_batch_may_be_larger_than_the_data():
    data = DataIterator(seed=1)
    ids = data.next_ids(3, 8)
    assert Counter(ids.tolist()).most_common()[-1][1] >= 2
    assert data == DataIterator(seed=1, epoch=2, position=2)


def test_a_batch_is_its_sequences_in_microshards():
    store = random_store(10, seed=4)
    data, same = DataIterator(seed=5, position=3), DataIterator(seed=5, position=3)
    shards = data.next_batch(store, 4, 2)
    expected = make_microshards(store, same.next_ids(10, 4), 2)
    assert data == same == DataIterator(seed=5, position=7)
    assert [shard.tokens.tolist() for shard in shards] == [shard.tokens.tolist() for shard in expected]
    assert len(shards) == 2


def test_padding_targets_and_mask():
    store = TokenStore(
        np.array([BOS, 7, EOS, BOS, 8, 9, EOS], np.uint16),
        np.array([0, 3, 7]),
        np.zeros(2, np.int32),
        np.zeros(2, np.uint8),
    )
    shard = pad(store, np.array([1, 0]))
    assert shard.tokens.tolist() == [[BOS, 8, 9], [BOS, 7, PAD]]  # nothing follows <eos>, so it is not read
    assert shard.targets.tolist() == [[8, 9, EOS], [7, EOS, PAD]]
    assert shard.loss_mask.tolist() == [[True, True, True], [True, True, False]]
    assert shard.n_targets == 5


def test_microshards_hold_each_sequence_once_in_a_fixed_order():
    store = random_store(10, seed=4)
    ids = np.arange(10)[::-1].copy()
    shards = make_microshards(store, ids, 4)
    again = make_microshards(store, ids, 4)
    rows = [tuple(t[:n]) for s in shards for t, n in zip(s.tokens, s.loss_mask.sum(1), strict=True)]
    expected = [tuple(store.tokens[a : b - 1]) for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    assert Counter(rows) == Counter(expected)
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(shards, again, strict=True))
    assert len(make_microshards(store, ids[:2], 4)) == 2


def test_a_store_that_does_not_fit_the_model_is_named():
    store = random_store(4, seed=1)
    config = ModelConfig(vocab_size=16, d_model=8, n_heads=2, n_layers=1, d_ff=8, context=9)
    store.check("x", config)
    with pytest.raises(UserError, match=r"train\.safetensors: .*at most 4 tokens \(model\.context \+ 1\)"):
        store.check("train.safetensors", replace(config, context=3))
    with pytest.raises(UserError, match=r"train\.safetensors: .*below 9 \(model\.vocab_size\)"):
        store.check("train.safetensors", replace(config, vocab_size=9))


# --- from rows ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(root):
    return list(read_corpus(root / "data/shards", root / "data/MANIFEST.json").correct_rows.values())


def test_a_row_becomes_both_directions(rows):
    row = next(row for row in rows if row.cell == "go.past_simple.1sg")
    assert build.texts([row]) == ["es:yo fui / en:I went", "en:I went / es:yo fui"]


@pytest.fixture(scope="module")
def bpe(rows):
    return train_tokenizer(build.texts(rows), 64)


def test_stores_hold_every_sequence_with_its_cell_and_direction(rows, bpe):
    names = sorted(row.cell for row in rows)
    store, unknown = build.make_store(rows, {name: i for i, name in enumerate(names)}, bpe, 32, {})
    assert (len(store), unknown) == (640, 0)
    assert [names[i] for i in store.cell] == [row.cell for row in rows for _ in range(2)]
    assert store.direction.tolist() == [0, 1] * 320
    assert bpe.decode(store.tokens[store.offsets[5] : store.offsets[6]]) == build.texts(rows)[5]
    assert [bpe.decode(sequence) for sequence in store.sequences()] == build.texts(rows)


def test_a_sequence_longer_than_the_context_is_named_with_its_place(rows, bpe):
    cells = {row.cell: i for i, row in enumerate(rows)}
    places = {row.id: f"x.jsonl:{i}" for i, row in enumerate(rows)}
    with pytest.raises(UserError, match=r"x\.jsonl:\d+: expected at most 21 tokens \(model\.context \+ 1\)") as caught:
        build.make_store(rows, cells, bpe, 20, places)
    number = int(str(caught.value).split(":")[1])
    assert rows[number].text in str(caught.value)


def test_a_text_in_two_splits_is_a_leak(rows):
    build.check_no_leak({"train": rows[:3], "val": rows[3:5], "test": rows[5:6]})
    with pytest.raises(UserError, match="is in train and in test"):
        build.check_no_leak({"train": rows[:3], "val": rows[3:5], "test": rows[2:3]})


def test_cells_come_back(rows):
    in_order = sorted(rows, key=lambda row: row.cell)
    split_of = {row.cell: "val" if row in rows[:5] else "train" for row in rows}
    decoded = decode_cells(json.loads(build.encode_cells(in_order, split_of)))
    assert [cell["cell"] for cell in decoded] == [row.cell for row in in_order]
    assert {cell["cell"] for cell in decoded if cell["split"] == "val"} == {row.cell for row in rows[:5]}
    assert decoded[0] == {
        **{"cell": "be.future_going_to.1sg", "verb": "be", "tense": "future_going_to", "person": "1sg"},
        **{"english_regularity": "irregular", "spanish_regularity": "irregular", "split": decoded[0]["split"]},
    }


# --- the dataset as a whole --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(root):
    params = read_params(root / "params.yaml")
    manifest = root / "data/MANIFEST.json"
    return build.build_dataset(params, read_corpus(root / "data/shards", manifest), files.sha256_file(manifest))


@pytest.fixture
def folder(built, tmp_path):
    files.write_all(tmp_path / "batches", built[0])
    return tmp_path / "batches"


def test_what_is_built_comes_back(root, built, folder):
    config = read_params(root / "params.yaml").model
    dataset = read_dataset(folder, config)
    assert dataset.digests == {name: files.sha256(data) for name, data in built[0].items()}
    assert dataset.data_manifest_sha256 == files.sha256_file(root / "data/MANIFEST.json")
    assert {split: len(store) for split, store in dataset.stores.items()} == {"train": 460, "val": 90, "test": 90}
    for split, store in dataset.stores.items():
        assert tensors.encode_tensors(store.arrays()) == built[0][f"{split}.safetensors"]
        assert {dataset.cells[i]["split"] for i in store.cell} == {split}
    assert set(built[1]) == {"lengths.csv", "metrics.json"}
    assert set(built[0]) == {"tokenizer.json", "cells.json", "summary.json", *(f"{s}.safetensors" for s in SPLITS)}


@pytest.mark.parametrize("name", ["tokenizer.json", "cells.json", "train.safetensors", "val.safetensors"])
def test_a_changed_file_is_named(root, folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=rf"{name}: expected the sha256 "):
        read_dataset(folder, read_params(root / "params.yaml").model)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_dataset(folder, read_params(root / "params.yaml").model)


def test_a_dataset_that_is_not_there_or_of_another_model_is_named(root, folder):
    config = read_params(root / "params.yaml").model
    with pytest.raises(UserError, match="nowhere: expected the output of shard-to-batches"):
        read_dataset(folder.parent / "nowhere", config)
    with pytest.raises(UserError, match=r"tokenizer\.json: expected 65 tokens \(model\.vocab_size\), got 64"):
        read_dataset(folder, replace(config, vocab_size=65))
    with pytest.raises(UserError, match=r"\.safetensors: expected sequences of at most 21 tokens"):
        read_dataset(folder, replace(config, context=20))


@pytest.mark.parametrize("change", [{"files": {}}, {"files": 5}, {"files": None}, {"data_manifest_sha256": None}, 5])
def test_a_summary_that_says_too_little_is_named(root, folder, change):
    summary = formats.read_json(folder / "summary.json")
    wrong = {k: v for k, v in {**summary, **change}.items() if v is not None} if isinstance(change, dict) else change
    files.write_bytes(folder / "summary.json", formats.json_bytes(wrong))
    with pytest.raises(UserError, match=r"summary\.json: .* Make it again with: dvc repro shard-to-batches"):
        read_dataset(folder, read_params(root / "params.yaml").model)
