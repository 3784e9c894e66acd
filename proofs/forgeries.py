"""Forged results and code: ``make audit`` is green for a clean clone, and red, naming what differs, for each forgery.

All but the edited table leave a run whose gate is green although the weights were trained on the test set: for the
first three quarters, which the gate believes, training gets the held-out sequences; then it goes on honestly. That
comes in by hand, with everything after it made again and committed, alone or with DVC's cache; by a module in the
project's root that hides an installed one; by an installed package that was changed. Takes more than half an
hour: each audit sets up its environment anew.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from proofs.audit import ENVIRONMENT
from proofs.project import ROOT

OUTPUTS = ("data/batches", "models", "plots")
TABLE = "plots/baseline-compare/perplexity_test.csv"
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


def shell(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project, with the environment that the project has set up first in its PATH."""
    environment = {**ENVIRONMENT, "PATH": f"{project}/.venv/bin:{ENVIRONMENT['PATH']}"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def must(project: Path, *command: str) -> None:
    """Run a command that has to end well."""
    result = shell(project, *command)
    if result.returncode != 0:
        raise UserError(f"{' '.join(command)[:60]}: {(result.stdout + result.stderr)[-2000:]}")


def commit(project: Path) -> None:
    """Commit the tracked files as they are now."""
    must(project, "git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qam", "forged")


def copy(source: Path, target: Path) -> None:
    """The outputs in ``source`` to ``target``, in place of those there."""
    for name in OUTPUTS:
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(source / name, target / name)


def leave_it(project: Path) -> None:
    pass


def edit_a_table(project: Path) -> None:
    text = (project / TABLE).read_text()
    (project / TABLE).write_text(text.replace(",1.", ",1.1"))
    must(project, "dvc", "commit", "-f", "baseline-compare")
    commit(project)


def forge_the_checkpoint(project: Path) -> None:
    must(project, "python", "-c", f"{CHEAT}\nfrom stages import train as stage\nstage.main()")
    must(project, "dvc", "commit", "-f", "train")
    must(project, "dvc", "repro")  # the gate is green
    commit(project)


def commit_the_cache_too(project: Path) -> None:
    """DVC would take the forged results from it instead of training."""
    forge_the_checkpoint(project)
    must(project, "git", "add", "-f", ".dvc/cache")
    commit(project)


def hide_a_package(project: Path) -> None:
    (installed,) = (project / ".venv").glob(f"lib/*/site-packages/{MODULE}")
    (project / MODULE).write_text(installed.read_text() + LATER)
    must(project, "dvc", "repro", "--force")
    commit(project)


def change_a_package(project: Path) -> None:
    (installed,) = (project / ".venv").glob(f"lib/*/site-packages/{MODULE}")
    installed.write_text(installed.read_text() + LATER)
    must(project, "dvc", "repro", "--force")
    commit(project)


# What is done to a project that has run, and what the audit must then name; the package at last, as it stays changed.
FORGERIES: dict[Callable[[Path], None], str | None] = {
    leave_it: None,
    edit_a_table: f"'{TABLE}'",
    forge_the_checkpoint: ".state.safetensors'",
    commit_the_cache_too: ".state.safetensors'",
    hide_a_package: ".state.safetensors'",
    change_a_package: ".state.safetensors'",
}


def holds(project: Path, named: str | None) -> bool:
    """Whether ``make audit`` is green, or red and names what differs."""
    result = shell(project, "make", "audit")
    line = next((line for line in result.stderr.splitlines() if line.startswith("error: audit:")), "")
    print(line or result.stdout.splitlines()[-1])
    return result.returncode == 0 if named is None else result.returncode != 0 and named in line


def main() -> None:
    start, failed = time.monotonic(), []
    with tempfile.TemporaryDirectory() as temporary:
        project, saved = Path(temporary).resolve() / "project", Path(temporary) / "saved"
        must(ROOT, "git", "clone", "-q", str(ROOT), str(project))
        must(project, "make", "repro")
        must(project, "git", "tag", "honest")
        copy(project, saved)
        for forge, named in FORGERIES.items():
            must(project, "git", "reset", "-q", "--hard", "honest")
            must(project, "git", "clean", "-fdq")
            copy(saved, project)
            forge(project)
            failed += [] if holds(project, named) else [forge.__name__]
            print(f"{forge.__name__}: {'FAILED' if forge.__name__ in failed else 'as it must be'}", flush=True)
    print(f"{len(FORGERIES)} audits, {len(failed)} other than they must be; {time.monotonic() - start:.0f} s")
    if failed:
        raise UserError(f"the proof does not hold: {', '.join(failed)}")


if __name__ == "__main__":
    run_command(main)
