"""The five state machines in one file, and the folder of working checkpoints.

One safetensors file holds all of a ``TrainState``; its tensors are named ``machine.part``. Working
checkpoints lie in ``checkpoints/<lineage>/``: the lineage is a digest of everything that the run is a
function of, so a checkpoint of another config, other data or other code is never even looked at.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minitrain import files
from minitrain.errors import UserError
from minitrain.loop import TrainState
from minitrain.minitorch.optim import AdamWState
from minitrain.minitorch.schedule import Schedule

# The prefixes of the tensors' names: the five state machines, and what has been achieved so far.
MACHINES = ("model", "optimizer", "scheduler", "data", "rng")
ACHIEVED = ("best", "log")
KEEP = 2  # working checkpoints of a lineage; the second newest is there should the newest be damaged


def state_layout(size: int) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """dtype and shape of every tensor of a state file, for a model of ``size`` parameters."""
    flat = ("float32", (size,))
    number = ("int64", ())
    return {
        "model.weights": flat,
        "model.ema": flat,
        "optimizer.m": flat,
        "optimizer.v": flat,
        "optimizer.t": number,
        "scheduler.step": number,
        "scheduler.shape": ("float64", (4,)),  # lr, lr_final, warmup_steps, steps
        "data.seed": number,
        "data.epoch": number,
        "data.position": number,
        "rng.state": ("uint64", (6,)),  # PCG64: state and increment (high, low), and its spare 32 bits
        "best.step": number,
        "best.loss": ("float64", ()),
        "best.weights": flat,
        "log.steps": ("float64", (None, 3)),  # loss, lr, grad_norm
        "log.evaluations": ("float64", (None, 2)),  # step, loss
    }


def state_tensors(state: TrainState) -> files.Tensors:
    """A train state as named arrays, see ``state_layout``."""
    schedule = state.schedule
    return {
        "model.weights": state.weights,
        "model.ema": state.ema,
        "optimizer.m": state.adamw.m,
        "optimizer.v": state.adamw.v,
        "optimizer.t": np.asarray(state.adamw.t, dtype=np.int64),
        "scheduler.step": np.asarray(state.step, dtype=np.int64),
        "scheduler.shape": np.array(
            [schedule.lr, schedule.lr_final, schedule.warmup_steps, schedule.steps], dtype=np.float64
        ),
        "data.seed": np.asarray(state.data_seed, dtype=np.int64),
        "data.epoch": np.asarray(state.epoch, dtype=np.int64),
        "data.position": np.asarray(state.position, dtype=np.int64),
        "rng.state": _rng_to_words(state.rng),
        "best.step": np.asarray(state.best_step, dtype=np.int64),
        "best.loss": np.asarray(state.best_loss, dtype=np.float64),
        "best.weights": state.best_weights,
        "log.steps": np.array(state.log, dtype=np.float64).reshape(-1, 3),
        "log.evaluations": np.array(state.evaluations, dtype=np.float64).reshape(-1, 2),
    }


def state_from_tensors(tensors: Mapping[str, np.ndarray]) -> TrainState:
    """The train state back from its arrays, which become its own."""
    lr, lr_final, warmup_steps, steps = tensors["scheduler.shape"].tolist()
    return TrainState(
        weights=tensors["model.weights"],
        ema=tensors["model.ema"],
        adamw=AdamWState(tensors["optimizer.m"], tensors["optimizer.v"], int(tensors["optimizer.t"])),
        step=int(tensors["scheduler.step"]),
        schedule=Schedule(lr, lr_final, int(warmup_steps), int(steps)),
        data_seed=int(tensors["data.seed"]),
        epoch=int(tensors["data.epoch"]),
        position=int(tensors["data.position"]),
        rng=_rng_from_words(tensors["rng.state"]),
        best_step=int(tensors["best.step"]),
        best_loss=float(tensors["best.loss"]),
        best_weights=tensors["best.weights"],
        log=[(loss, lr, grad_norm) for loss, lr, grad_norm in tensors["log.steps"].tolist()],
        evaluations=[(int(step), loss) for step, loss in tensors["log.evaluations"].tolist()],
    )


def machine_digests(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """sha256 of each state machine and of what has been achieved: over the names, dtypes, shapes and bytes of
    its tensors.
    """
    digests = {}
    for machine in (*MACHINES, *ACHIEVED):
        digest = hashlib.sha256()
        for name in sorted(tensors):
            if name.split(".")[0] == machine:
                array = np.asarray(tensors[name])
                digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode() + array.tobytes())
        digests[machine] = digest.hexdigest()
    return digests


def load_state(path: Path, size: int, expected_sha256: str | None = None) -> TrainState:
    """The train state in a file, for a model of ``size`` parameters; UserError when the file is not whole or
    does not fit.
    """
    tensors = files.load_tensors(path, state_layout(size), expected_sha256)
    try:
        return state_from_tensors(tensors)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: expected a train state, got numbers that cannot be one: {error}.") from error


def save_working(folder: Path, state: TrainState) -> Path:
    """Write a working checkpoint of ``state`` and remove all but the newest of the folder."""
    path = folder / f"step-{state.step:09d}.safetensors"
    files.save_tensors(path, state_tensors(state))
    for old in newest_first(folder)[KEEP:]:
        files.remove(old)
    return path


def load_newest(folder: Path, size: int) -> TrainState | None:
    """The state of the newest whole checkpoint of a lineage, or None; damaged ones are removed."""
    for path in newest_first(folder):
        state = load_whole(path, size)
        if state is not None:
            return state
        files.remove(path)
    return None


def load_whole(path: Path, size: int) -> TrainState | None:
    """The state in a working checkpoint; None, and the terminal says why, where it is missing or damaged. UserError
    where it cannot be read: it may well be whole, and then nothing must take its place.
    """
    if path.exists():
        files.read_bytes(path)
    try:
        return load_state(path, size)
    except UserError as error:
        print(f"a damaged checkpoint: {error}")
        return None


def prune_other_lineages(folder: Path) -> None:
    """Remove the working checkpoints beside ``folder``: they belong to another config, other data or other code."""
    if folder.parent.is_dir():
        for other in sorted(folder.parent.iterdir()):
            if re.fullmatch("[0-9a-f]{16}", other.name) and other.name != folder.name:  # and not somebody's own folder
                shutil.rmtree(other, ignore_errors=True)


def remove_lineage(folder: Path) -> None:
    """Remove the working checkpoints of a lineage, whose work is done or cannot be used."""
    shutil.rmtree(folder, ignore_errors=True)


def newest_first(folder: Path) -> list[Path]:
    """The working checkpoints of a lineage, the newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _rng_to_words(rng: np.random.Generator) -> np.ndarray:
    value = rng.bit_generator.state
    numbers = value["state"]["state"], value["state"]["inc"]
    words = [word for number in numbers for word in (number >> 64, number & (2**64 - 1))]
    return np.array([*words, value["has_uint32"], value["uinteger"]], dtype=np.uint64)


def _rng_from_words(words: np.ndarray) -> np.random.Generator:
    high, low, inc_high, inc_low, has_uint32, uinteger = (int(word) for word in words)
    bit_generator = np.random.PCG64()
    bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return np.random.Generator(bit_generator)
