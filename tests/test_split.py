"""The split: how much is held out, of what, and what must stay in train."""

from collections import Counter
from dataclasses import replace

import pytest

from minitrain.base.errors import UserError
from minitrain.dataset.split import split_cells
from minitrain.params import SplitConfig

SPLIT_BY = {"cell": 3, "verb_tense": 2, "verb": 1}  # parts of a cell's name that a group shares


def split(rows, by, seed, fraction=0.15):
    return split_cells(rows, SplitConfig(by=by, seed=seed, val_fraction=fraction, test_fraction=fraction))


@pytest.mark.parametrize("by", SPLIT_BY)
@pytest.mark.parametrize("seed", range(18, 28))
def test_fifteen_percent_of_the_finite_cells_each(rows, by, seed):
    assert Counter(split(rows, by, seed).values()) == {"train": 230, "val": 45, "test": 45}


@pytest.mark.parametrize("seed", range(18, 28))
def test_held_out_cells_are_stratified_and_leave_a_person_in_train(rows, seed):
    split_of = split(rows, "cell", seed)
    for name in ("val", "test"):
        held_out = [row for row in rows if split_of[row.cell] == name]
        assert Counter(row.tense for row in held_out) == dict.fromkeys(
            ("present_simple", "past_simple", "past_participle", "future_will", "future_going_to"), 9
        )
        assert Counter(row.english_regularity for row in held_out) == {"irregular": 20, "regular": 25}
    kept = {(row.verb_lemma, row.tense) for row in rows if split_of[row.cell] == "train"}
    assert kept == {(row.verb_lemma, row.tense) for row in rows}


@pytest.mark.parametrize("by", SPLIT_BY)
def test_groups_stay_together_and_infinitives_train(rows, by):
    split_of = split(rows, by, 18)
    assert {split_of[row.cell] for row in rows if row.tense == "infinitive"} == {"train"}
    finite = [cell.split(".") for cell in split_of if not cell.endswith(".infinitive")]  # verb, tense, person
    groups = {(*cell[: SPLIT_BY[by]], split_of[".".join(cell)]) for cell in finite}
    assert len(groups) == len({group[:-1] for group in groups})


@pytest.mark.parametrize("by", SPLIT_BY)
def test_the_split_depends_on_the_seed_and_not_on_the_order(rows, by):
    # Not even where the rows of a verb disagree on what the split is stratified by.
    mixed = [replace(row, english_regularity="irregular") if row.person == "2sg" else row for row in rows]
    first = split(mixed, by, 18)
    assert split(mixed[::-1], by, 18) == first
    assert split(mixed, by, 19) != first


def test_too_small_a_corpus_is_refused(rows):
    with pytest.raises(UserError, match="no cell falls into test, val"):
        split([row for row in rows if row.verb_lemma == "go"][:4], "cell", 18, 0.01)
