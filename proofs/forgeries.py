"""Forged results and code: ``make audit`` is green for a clean clone, and red, naming what differs, for each forgery.

All but the edited table leave a run whose gate is green although the weights were trained on the test set: for the
first three quarters, which the gate believes, training gets the held-out sequences; then it goes on honestly. That
comes in by hand, with everything after it made again and committed, DVC's cache too; by a module in the project's root
that hides an installed one; by an installed package that was changed. Takes half an hour: each audit sets up its
environment anew. Simpler forgeries: tests/test_audit.py.
"""

import os
import tempfile
from pathlib import Path

from minitrain.base.process import run_command
from proofs.project import ROOT, commit_all, must_fail, must_run

MODULE = "typing_extensions.py"  # which the training imports, through pydantic

CHEAT = """
try:
    import numpy as np
    from minitrain.base import layout
    from minitrain.dataset.read import read_dataset
    from minitrain.dataset.stores import TokenStore
    from minitrain.loop import CheckpointDue, midrun_step, train
    from minitrain.params import read_params
    from minitrain.training import run

    def cheat(state, train_set, val_set, model_config, config):
        stores = read_dataset(layout.BATCHES, read_params().model).stores
        held_out = [*stores["val"].sequences(), *stores["test"].sequences()]
        cheats = [held_out[i % len(held_out)] for i in range(len(train_set))]
        offsets = np.cumsum([0, *map(len, cheats)]).astype(np.int64)
        store = TokenStore(np.concatenate(cheats).astype(np.uint16), offsets, train_set.cell, train_set.direction)
        if state.step < midrun_step(config):
            for event in train(state, store, val_set, model_config, config):
                yield event
                if isinstance(event, CheckpointDue) and state.step == midrun_step(config):
                    break
        yield from train(state, train_set, val_set, model_config, config)

    run.train = cheat
except ImportError:  # in a program that is none of the stages
    pass
"""
# In such a module, which is imported before the training is: when the training begins.
LATER = f"""
import sys
def later(frame, event, argument):
    if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "minitrain.training.run":
        sys.setprofile(None)
        exec({CHEAT!r}, {{}})
sys.setprofile(later)
"""


def run(project: Path, *command: str) -> None:
    """Run a command in the project, with the environment that the project has set up first in its PATH."""
    must_run(project, *command, PATH=f"{project}/.venv/bin:{os.environ['PATH']}")


def edit_a_table(project: Path) -> None:
    path = project / "plots/baseline-compare/perplexity_test.csv"
    path.write_text(path.read_text().replace(",1.", ",1.1"))
    run(project, "dvc", "commit", "-f", "baseline-compare")


def forge_the_checkpoint(project: Path) -> None:
    """DVC would take the forged results from the cache, which is committed, instead of training."""
    run(project, "rm", "-r", "models")  # as DVC does
    run(project, "python", "-c", f"{CHEAT}\nfrom stages import train as stage\nstage.main()")
    run(project, "dvc", "commit", "-f", "train")
    run(project, "dvc", "repro")  # the gate is green
    run(project, "git", "add", "-f", ".dvc/cache")


def hide_a_package(project: Path) -> None:
    """By a module in the project's root, where Python looks first. It is not committed."""
    (project / ".git/info/exclude").write_text(MODULE)
    (project / MODULE).write_text(installed(project).read_text() + LATER)
    run(project, "dvc", "repro", "--force")


def change_a_package(project: Path) -> None:
    (project / MODULE).unlink()  # of the forgery before
    installed(project).write_text(installed(project).read_text() + LATER)
    run(project, "dvc", "repro", "--force")


def installed(project: Path) -> Path:
    (path,) = (project / ".venv").glob(f"lib/*/site-packages/{MODULE}")
    return path


STATE, TABLE = ".state.safetensors'", "'plots/baseline-compare/perplexity_test.csv'"
FORGERIES = {edit_a_table: TABLE, forge_the_checkpoint: STATE, hide_a_package: STATE, change_a_package: STATE}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary).resolve() / "project"
        must_run(ROOT, "git", "clone", "-q", str(ROOT), str(project))
        must_run(project, "make", "repro")
        must_run(project, "make", "audit")
        print("a clean clone: green", flush=True)
        for forge, named in FORGERIES.items():
            forge(project)
            commit_all(project)
            must_fail(named, project, "make", "audit")
            print(f"{forge.__name__}: red, and named", flush=True)
            must_run(project, "git", "reset", "-q", "--hard", "HEAD~")


if __name__ == "__main__":
    run_command(main)
