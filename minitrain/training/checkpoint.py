"""A train state in one file, and the folder of working checkpoints.

One safetensors file holds all of a ``TrainState``. Working checkpoints are stored in ``checkpoints/<digest>/``:
the digest of everything that the run is a function of, so a checkpoint of another config, other data or other
code is never even looked at. It stays until that run has ended, however many others come in between.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np

from minitrain.base import UserError, files, tensors
from minitrain.loop import midrun_step
from minitrain.minitorch.schedule import Schedule
from minitrain.params import ModelConfig, TrainConfig
from minitrain.training.state import TrainState, initial_state

N_CHECKPOINTS = 2  # of a run; the second newest is there should the newest be damaged
MIDRUN = "kept.safetensors"  # the checkpoint that is exported too
LOG_COLUMNS = {"log.steps": 3, "log.evaluations": 2}


def state_tensors(state: TrainState) -> tensors.Tensors:
    """A train state as arrays by their paths, such as ``optimizer.m``."""
    return {path: _to_array(path, getattr(owner, name)) for path, owner, name in _attributes(state)}


def load_state(
    path: Path, model_config: ModelConfig, config: TrainConfig, expected_sha256: str | None = None
) -> TrainState:
    """The train state in a file; UserError when the file is not whole or is no state of such a run."""
    return decode_state(files.read_bytes(path, expected_sha256), str(path), model_config, config)


def decode_state(data: bytes, name: str, model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The train state in the content of a file; UserError begins with ``name``."""
    state = initial_state(model_config, config)
    specs: tensors.TensorSpecs = {
        path: (array.dtype.name, (None, LOG_COLUMNS[path]) if path in LOG_COLUMNS else array.shape)
        for path, array in state_tensors(state).items()
    }
    arrays = tensors.decode_tensors(data, name, specs)
    try:
        for path, owner, attribute in _attributes(state):
            setattr(owner, attribute, _from_array(arrays[path], getattr(owner, attribute)))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{name}: expected a train state, got numbers that cannot be one: {error}.") from error
    return state


def _attributes(state: TrainState) -> Iterator[tuple[str, Any, str]]:
    """Everything that a checkpoint holds: its path, the object that has it and the attribute's name."""
    for part in fields(state):
        owner = getattr(state, part.name)
        if isinstance(owner, np.random.Generator):
            yield f"{part.name}.state", owner.bit_generator, "state"
        else:
            yield from ((f"{part.name}.{field.name}", owner, field.name) for field in fields(owner))


def _to_array(path: str, value: Any) -> np.ndarray:
    match value:
        case Schedule():
            return np.array(astuple(value), np.float64)
        case list():
            return np.array(value, np.float64).reshape(len(value), LOG_COLUMNS[path])
        case {"state": {"state": state, "inc": inc}, "has_uint32": has_uint32, "uinteger": uinteger}:
            # PCG64: state and increment of 128 bits, high half first, and its spare 32 bits.
            halves = [half for number in (state, inc) for half in (number >> 64, number & (2**64 - 1))]
            return np.array([*halves, has_uint32, uinteger], np.uint64)
        case _:
            return np.asarray(value, np.int64 if isinstance(value, int) else None)


def _from_array(array: np.ndarray, like: Any) -> Any:
    """The value in an array, of the kind that ``like`` has."""
    match like:
        case Schedule():
            lr, lr_final, warmup_steps, steps = array.tolist()
            return Schedule(lr, lr_final, int(warmup_steps), int(steps))
        case list():
            return [tuple(row) for row in array.tolist()]
        case dict():
            high, low, inc_high, inc_low, has_uint32, uinteger = array.tolist()
            numbers = {"state": high << 64 | low, "inc": inc_high << 64 | inc_low}
            return like | {"state": numbers, "has_uint32": has_uint32, "uinteger": uinteger}
        case np.ndarray():
            return array
        case _:
            return type(like)(array)


def state_digests(arrays: tensors.Tensors) -> dict[str, str]:
    """sha256 of each part of a state, over the names, dtypes, shapes and bytes of its tensors."""
    return {
        part: tensors.tensors_digest({path: array for path, array in arrays.items() if path.startswith(f"{part}.")})
        for part in dict.fromkeys(path.split(".")[0] for path in arrays)
    }


# --- working checkpoints -----------------------------------------------------------------------------


def save_working(folder: Path, state: TrainState, config: TrainConfig) -> None:
    """Write a working checkpoint of ``state`` and remove all but the newest of the folder."""
    data = tensors.encode_tensors(state_tensors(state))
    if state.step == midrun_step(config):
        files.write_bytes(folder / MIDRUN, data)
    files.write_bytes(folder / f"step-{state.step:09d}.safetensors", data)
    for old in newest_first(folder)[N_CHECKPOINTS:]:
        files.remove(old)


def resume(folder: Path, model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The state in the newest whole working checkpoint, or a fresh one; damaged checkpoints are removed."""
    files.remove_unfinished(folder)
    for path in newest_first(folder):
        state = _load_whole(path, model_config, config)
        if state is None:
            files.remove(path)
        elif state.step > midrun_step(config) and _load_whole(folder / MIDRUN, model_config, config) is None:
            print("starting over")  # The export includes the mid-run checkpoint.
            for other in newest_first(folder):  # not the folder itself: it is locked
                files.remove(other)
            break
        else:
            print(f"going on from step {state.step} ({folder})")
            return state
    return initial_state(model_config, config)


def _load_whole(path: Path, model_config: ModelConfig, config: TrainConfig) -> TrainState | None:
    """The state in a working checkpoint; None, and the terminal says why, where it is missing or damaged. UserError
    where it cannot be read: it may well be whole, and then it must not be replaced.
    """
    if not path.exists():
        print(f"{path}: not there")
        return None
    data = files.read_bytes(path)
    try:
        return decode_state(data, str(path), model_config, config)
    except UserError as error:
        print(f"a damaged checkpoint: {error}")
        return None


def say_what_others_left(folder: Path) -> None:
    """Print how many runs of another config, other data or other code have checkpoints beside ``folder``, and how
    large they are. They are left alone: such a run is to go on, or is at work now.
    """
    with suppress(FileNotFoundError):  # one that ends now removes its own
        others = {path.parent for path in folder.parent.glob("*/step-*.safetensors")} - {folder}
        size = sum(path.stat().st_size for other in others for path in other.iterdir())
        if others:
            print(
                f"unfinished runs of other settings in {folder.parent}: {len(others)}, {size / 1e6:.1f} MB. Which they "
                "are is in manifest.json; remove the folder of one that will not go on"
            )


def newest_first(folder: Path) -> list[Path]:
    """The working checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)
