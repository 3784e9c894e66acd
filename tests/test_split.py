"""The split: how much is held out, of what, and what must stay in train."""

from collections import Counter, defaultdict

import pytest

from minitrain import corpus
from minitrain.errors import UserError
from minitrain.split import SPLIT_BY, split_cells


@pytest.fixture(scope="module")
def rows(root):
    return corpus.read_corpus(root / "data/shards", root / "data/MANIFEST.json").examples


@pytest.mark.parametrize("by", SPLIT_BY)
@pytest.mark.parametrize("seed", range(18, 28))
def test_fifteen_percent_of_the_finite_cells_each(rows, by, seed):
    assert Counter(split_cells(rows, by, seed, 0.15, 0.15).values()) == {"train": 230, "val": 45, "test": 45}


@pytest.mark.parametrize("seed", range(18, 28))
def test_held_out_cells_are_stratified_and_leave_a_person_in_train(rows, seed):
    split_of = split_cells(rows, "cell", seed, 0.15, 0.15)
    for split in ("val", "test"):
        assert Counter(row.tense for row in rows if split_of[row.cell] == split) == dict.fromkeys(
            ("present_simple", "past_simple", "past_participle", "future_will", "future_going_to"), 9
        )
        irregular = sum(split_of[row.cell] == split and row.english_regularity == "irregular" for row in rows)
        assert irregular == 20
    kept = {(row.verb_lemma, row.tense) for row in rows if split_of[row.cell] == "train"}
    assert kept == {(row.verb_lemma, row.tense) for row in rows}


@pytest.mark.parametrize("by", ["verb_tense", "verb"])
def test_larger_groups_stay_together(rows, by):
    split_of = split_cells(rows, by, 18, 0.15, 0.15)
    groups = defaultdict(set)
    for row in rows:
        if row.tense != "infinitive":
            groups[(row.verb_lemma, row.tense) if by == "verb_tense" else row.verb_lemma].add(split_of[row.cell])
    assert all(len(splits) == 1 for splits in groups.values())


def test_the_split_depends_on_the_seed_and_not_on_the_order(rows):
    first = split_cells(rows, "cell", 18, 0.15, 0.15)
    assert split_cells(rows[::-1], "cell", 18, 0.15, 0.15) == first
    assert split_cells(rows, "cell", 19, 0.15, 0.15) != first
    # Not even where the rows of a verb disagree on what the split is stratified by.
    mixed = [row._replace(english_regularity="irregular") if row.person == "2sg" else row for row in rows]
    for by in ("verb_tense", "verb"):
        assert split_cells(mixed[::-1], by, 18, 0.15, 0.15) == split_cells(mixed, by, 18, 0.15, 0.15)


def test_infinitives_always_train(rows):
    for by in SPLIT_BY:
        split_of = split_cells(rows, by, 18, 0.15, 0.15)
        assert {split_of[row.cell] for row in rows if row.tense == "infinitive"} == {"train"}


def test_too_small_a_corpus_is_refused(rows):
    with pytest.raises(UserError, match="no cell falls into val"):
        split_cells([row for row in rows if row.verb_lemma == "go"][:4], "cell", 18, 0.01, 0.01)
