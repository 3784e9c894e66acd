"""Data order, padding and masks; from rows to stores."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import random_store

from minitrain import cells, corpus, sequences, tokenizer
from minitrain.batches import TokenStore, batch_ids, make_microshards, pad
from minitrain.errors import UserError
from minitrain.tokenizer import BOS, EOS, PAD


def order(n, seed, batch_size, steps, epoch=0, position=0):
    batches = []
    for _ in range(steps):
        ids, epoch, position = batch_ids(n, seed, epoch, position, batch_size)
        batches.append(ids.tolist())
    return batches, epoch, position


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
    ids, epoch, position = batch_ids(3, 1, 0, 0, 8)
    assert Counter(ids.tolist()).most_common()[-1][1] >= 2
    assert (epoch, position) == (2, 2)


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


def test_damaged_stores_are_named():
    store = random_store(4, seed=1)
    store.check("x", 16, 9)
    arrays = store.arrays()
    bad = [
        {"offsets": arrays["offsets"][:-1]},
        {"offsets": arrays["offsets"] + 1},
        {"direction": arrays["direction"][:-1]},
        {"direction": arrays["direction"] + 9},
        {"tokens": arrays["tokens"] + 60},
        {"tokens": np.where(arrays["tokens"] == EOS, PAD, arrays["tokens"])},
        {"cell": arrays["cell"][:0]},
    ]
    for change in bad:
        with pytest.raises(UserError, match="train.safetensors"):
            TokenStore(**{**arrays, **change}).check("train.safetensors", 16, 9)
    with pytest.raises(UserError, match="2 to 4 tokens"):
        store.check("x", 16, 3)


# --- from rows ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(root):
    return corpus.read_corpus(root / "data/shards", root / "data/MANIFEST.json").examples


def test_a_row_becomes_both_directions(rows):
    row = next(row for row in rows if row.cell == "go.past_simple.1sg")
    assert list(sequences.SequenceTexts([row])) == ["es:yo fui / en:I went", "en:I went / es:yo fui"]


def test_stores_hold_every_sequence_with_its_cell_and_direction(rows):
    texts = list(sequences.SequenceTexts(rows))
    bpe = tokenizer.train(texts, 64)
    store, unknown = sequences.make_store(rows, sorted(row.cell for row in rows), bpe, 32)
    store.check("all", 64, 32)
    assert (len(store), unknown) == (640, 0)
    names = sorted(row.cell for row in rows)
    assert [names[i] for i in store.cell] == [row.cell for row in rows for _ in range(2)]
    assert store.direction.tolist() == [0, 1] * 320
    assert bpe.decode(store.tokens[store.offsets[5] : store.offsets[6]]) == texts[5]


def test_a_sequence_longer_than_the_context_is_named(rows):
    bpe = tokenizer.train(sequences.SequenceTexts(rows), 64)
    with pytest.raises(UserError, match=r"\w+\.\w+\.\dsg: expected at most 21 tokens"):
        sequences.make_store(rows, sorted(row.cell for row in rows), bpe, 20)


def test_a_text_in_two_splits_is_a_leak(rows):
    sequences.check_no_leak({"train": rows[:3], "val": rows[3:5], "test": rows[5:6]})
    with pytest.raises(UserError, match="is in train and in test"):
        sequences.check_no_leak({"train": rows[:3], "val": rows[3:5], "test": rows[2:3]})


def test_cells_come_back(rows):
    decoded = cells.decode_cells(json.loads(cells.encode_cells({"train": rows[5:], "val": rows[:5]})))
    assert [cell["cell"] for cell in decoded] == sorted(row.cell for row in rows)
    assert {cell["cell"] for cell in decoded if cell["split"] == "val"} == {row.cell for row in rows[:5]}
    assert decoded[0] == {
        **{"cell": "be.future_going_to.1sg", "verb": "be", "tense": "future_going_to", "person": "1sg"},
        **{"english_regularity": "irregular", "spanish_regularity": "irregular", "split": decoded[0]["split"]},
    }
