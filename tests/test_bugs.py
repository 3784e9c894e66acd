"""The ten bugs of the course: each fits today's code, and changes what its lesson says, and nothing before that."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TINY_MODEL, TINY_TRAIN, run_python

from course import bugs
from course.bug_run import run
from course.ten_bugs import BUGS

CONFIG = dataclasses.replace(TINY_TRAIN, clip_norm=0.3)  # which the gradients of some tensors exceed
BY_TITLE = {bug.title: bug for bug in BUGS}
CURVES = """
import dataclasses, json, sys
sys.path.insert(0, "tests")
from conftest import TINY_MODEL, TINY_TRAIN, random_store
from course.bug_run import run
config = dataclasses.replace(TINY_TRAIN, clip_norm=0.3)
print(json.dumps(run(random_store(20, seed=1), random_store(7, seed=2), TINY_MODEL, config)))
"""


@pytest.fixture(scope="module")
def curves(tmp_path_factory, train_set, val_set):
    """The curves of a tiny run by the title of its bug; of the right code: "right"."""
    folder = tmp_path_factory.mktemp("bugs")

    def of(bug):
        ran = run_python(bugs.copy_with(bug.change, folder / bug.name), "-c", CURVES)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    with ThreadPoolExecutor(2) as pool:
        return {
            "right": run(train_set, val_set, TINY_MODEL, CONFIG),
            **dict(zip(BY_TITLE, pool.map(of, BUGS), strict=True)),
        }


def first_difference(right, wrong):
    """The first step at which two curves differ; None where they are equal."""
    return next((step for (step, a), (_, b) in zip(right, wrong, strict=True) if a != b), None)


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
        ("Data position not restored", CONFIG.checkpoint_every, 8),
        ("Evaluation with dropout on", None, 0),
    ],
)
def test_a_bug_changes_the_losses_from_the_step_where_it_acts(curves, title, training, validation):
    right, wrong = curves["right"], curves[title]
    assert first_difference(right["training loss"], wrong["training loss"]) == training
    assert first_difference(right["validation loss"], wrong["validation loss"]) == validation
    shown = BY_TITLE[title].curve
    assert first_difference(right[shown], wrong[shown]) is not None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_check_that_a_lesson_names_exists(root, bug):
    file, test = bug.check.split("::")
    assert f"\ndef {test.partition('[')[0]}(" in (root / file).read_text()
