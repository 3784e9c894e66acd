"""The ten bugs of the course: each fits today's code, and changes what its lesson says, and nothing before that."""

import dataclasses
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TINY_MODEL, TINY_TRAIN, run_python

from course import bugs
from course.bug_run import run
from course.ten_bugs import BUGS
from minitrain.base.errors import UserError

CLIP_NORM = 0.3  # which the gradients of some tensors exceed
STOP = TINY_TRAIN.checkpoint_every  # where a run is saved and resumed
BY_TITLE = {bug.title: bug for bug in BUGS}
MASK_ALONE = BY_TITLE["Pads as keys"].change.partition("minitrain/dataset/batches.py")[0]

TINY = f"""
import dataclasses, json, sys
sys.path.insert(0, "tests")
from conftest import TINY_MODEL, TINY_TRAIN, random_store
from course.bug_run import initial_state, run, train
config = dataclasses.replace(TINY_TRAIN, clip_norm={CLIP_NORM})
tiny = random_store(20, seed=1), random_store(7, seed=2), TINY_MODEL, config
"""
CURVES = TINY + "print(json.dumps(run(*tiny)))"
FIRST_STEP = TINY + "list(train(initial_state(TINY_MODEL, config), *tiny))"


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """The curves of a tiny run by the title of its bug; "none" has no bug, "mask alone" half of one."""
    changes = {bug.title: bug.change for bug in BUGS} | {"none": "", "mask alone": MASK_ALONE}
    folder = tmp_path_factory.mktemp("bugs")

    def of(title):
        ran = run_python(bugs.copy_with(changes[title], folder / title), "-c", CURVES)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(changes, pool.map(of, changes), strict=True))


def first_difference(right, wrong):
    """The first step at which two curves differ; None where they are equal."""
    return next((step for (step, a), (_, b) in zip(right, wrong, strict=True) if a != b), None)


def test_without_a_bug_nothing_changes(curves, train_set, val_set):
    here = run(train_set, val_set, TINY_MODEL, dataclasses.replace(TINY_TRAIN, clip_norm=CLIP_NORM))
    assert curves["none"] == json.loads(json.dumps(here))


@pytest.mark.parametrize(
    ("title", "training", "validation"),
    [
        ("Pads in the loss", 0, 4),
        ("Pads as keys", 0, 0),
        ("Wrong shift", 0, 0),
        ("Sum instead of mean", 0, 4),
        ("No bias correction", 1, 4),
        ("L2 instead of weight decay", 1, 4),
        ("Clipping per tensor", 1, 4),
        ("No causal mask", 0, 0),
        ("Data position not restored", STOP, 8),
        ("Evaluation with dropout on", None, 0),
    ],
)
def test_a_bug_changes_the_losses_from_the_step_where_it_acts(curves, title, training, validation):
    right, wrong = curves["none"], curves[title]
    assert first_difference(right["training loss"], wrong["training loss"]) == training
    assert first_difference(right["validation loss"], wrong["validation loss"]) == validation
    shown = BY_TITLE[title].curve
    assert first_difference(right[shown], wrong[shown]) is not None


def test_pads_after_the_sequence_are_harmless_keys_and_before_it_are_not(curves):
    assert curves["mask alone"] == curves["none"]
    assert max(change for _, change in curves["none"]["change by neighbours"]) == 0
    assert min(change for _, change in curves["Pads as keys"]["change by neighbours"]) > 1e-3


def test_the_sum_is_the_mean_times_the_targets(curves):
    (_, mean), (_, total) = (curves[title]["training loss"][0] for title in ("none", "Sum instead of mean"))
    assert total / mean == pytest.approx(round(total / mean), abs=1e-4)
    assert total / mean > 10


def test_clipped_as_a_whole_no_gradient_is_above_the_bound_and_clipped_by_tensors_some_are(curves):
    whole, by_tensor = (
        max(norm for _, norm in curves[title]["gradient norm after clipping"])
        for title in ("none", "Clipping per tensor")
    )
    assert whole == pytest.approx(CLIP_NORM, rel=1e-6)
    assert by_tensor > 1.1 * CLIP_NORM


def test_the_check_of_the_first_step_stops_a_sum(tmp_path):
    project = bugs.copy_with(BY_TITLE["Sum instead of mean"].change, tmp_path / "project")
    assert "step 0: expected a loss within 0.5 of ln 16" in run_python(project, "-c", FIRST_STEP).stderr


def test_a_check_that_does_not_notice_its_bug_is_named():
    adamw = BY_TITLE["No bias correction"].check
    with pytest.raises(UserError, match=f"Wrong shift: expected {adamw} to be red, got pytest's exit status 0"):
        bugs.expect_caught(dataclasses.replace(BY_TITLE["Wrong shift"], check=adamw))


# --- the page ------------------------------------------------------------------------------------------


def test_the_page_is_up_to_date():
    bugs.check()


def test_a_page_of_other_bugs_is_stale(tmp_path, monkeypatch):
    (tmp_path / "bugs.md").write_text(bugs.page().replace("Wrong shift", "Right shift"))
    monkeypatch.setattr(bugs, "PAGE", tmp_path / "bugs.md")
    with pytest.raises(UserError, match=r"bugs\.md: expected what course/bugs\.py writes.* make lessons"):
        bugs.check()


def test_a_picture_that_is_missing_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(bugs, "PICTURES", tmp_path)
    with pytest.raises(UserError, match="make lessons"):
        bugs.check()


@pytest.mark.parametrize(("line", "found"), [("no_such_line()", 0), ("@dataclass", 4)])
def test_a_right_line_that_the_code_has_not_just_once_is_named(line, found):
    expected = f"expected one line '{line}' in minitrain/training/state.py, found {found}."
    with pytest.raises(UserError, match=re.escape(expected)):
        bugs.broken_files(f"minitrain/training/state.py\n- {line}\n+ pass\n")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_check_that_a_lesson_names_exists(root, bug):
    file, test = bug.check.split("::")
    assert f"\ndef {test.partition('[')[0]}(" in (root / file).read_text()


def test_every_link_of_the_page_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", bugs.PAGE.read_text())
    assert len(links) == 2 * len(BUGS)
    for link in links:
        assert (bugs.PAGE.parent / link).exists(), link


# --- pictures ------------------------------------------------------------------------------------------


def test_equal_curves_give_equal_bytes_and_each_scale_another_picture():
    right, wrong = [(step, 4.0 - step / 10) for step in range(9)], [(step, 4.5 - step / 10) for step in range(9)]
    drawn = [bugs.two_curves("training loss", scale, right, wrong, "x") for scale in ("linear", "log", "difference")]
    assert drawn[0] == bugs.two_curves("training loss", "linear", right, wrong, "x")
    assert len(set(drawn)) == 3


def test_an_exam_has_five_pictures_and_the_answers_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(bugs, "curves", lambda project: {bug.curve: [(0, 1.0), (1, 2.0)] for bug in BUGS})
    monkeypatch.setattr(bugs, "copy_with", lambda change, target: target)
    bugs.write_exam(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{letter}.png" for letter in "ABCDE"), "answers.txt"]
    titles = [line.split(": ")[1] for line in (tmp_path / "answers.txt").read_text().splitlines()]
    assert len(set(titles) & set(BY_TITLE)) == 5
