"""Damaged files: every one is refused with an error that names it, quickly, in little memory.

First every bit flipped of a small file of each format. Then thousands of copies of the files that the stages read,
changed at random: bits flipped, regions cut, inserted, repeated, swapped or replaced. A crash, a hang, a copy that
loads, a second or 200 MB too many is a failure. Negative controls: whole files load, and, in the tests, a
loader without its check of the digest is caught.
"""

import contextlib
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minitrain.base import UserError, files, formats, layout, process, tensors
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.training import checkpoint, export
from proofs import program
from proofs.project import SHORT, copy_project, must_run

COPIES = 10_000
MEMORY = 200 << 20  # bytes that the refusals may cost, beyond what the loaded libraries take
SECONDS = 1.0  # that a refusal may take
REFUSED, LOADED = "refused", "loaded"


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Other bytes: one to a hundred bits flipped, or a region cut, inserted, repeated, swapped or replaced."""
    longest = rng.choice((1, 8, 1000, len(data)))
    a = rng.randrange(len(data))
    b = min(len(data), a + rng.randint(1, longest))
    c = min(len(data), b + rng.randint(1, longest))
    noise = rng.choice((bytes(b - a), b"\xff" * (b - a), rng.randbytes(b - a)))
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 1, 8, 100))):
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return rng.choice(
        (
            bytes(flipped),
            data[:a] + data[b:],  # cut
            data[:a],
            data[:a] + noise + data[a:],  # inserted
            data + noise,
            data[:b] + data[a:],  # repeated
            data[:a] + data[b:c] + data[a:b] + data[c:],  # swapped
            data[:a] + noise + data[b:],  # replaced
        )
    )


def targets() -> dict[Path, Callable[[], object]]:
    """The files to damage and how the stages load each; in the project's folder. Not those that only hold digests."""
    params = read_params()
    manifest = export.read_manifest(layout.MODELS)
    model = layout.MODELS / manifest["model"]
    state, midrun = layout.state_path(model), layout.MODELS / layout.MIDRUN_CHECKPOINT

    def load_state(path: Path, digest: str | None = None) -> object:
        return checkpoint.load_state(path, params.model, params.train, digest)

    loaders: dict[Path, Callable[[], object]] = dict.fromkeys(
        (layout.BATCHES / name for name in ("train.safetensors", "val.safetensors", "tokenizer.json")),
        lambda: read_dataset(layout.BATCHES, params.model),
    )
    loaders |= dict.fromkeys(
        (model, layout.MODELS / layout.TOKENIZER), lambda: export.read_model(layout.MODELS, params.model)
    )
    loaders[state] = lambda: load_state(state, manifest["files"][state.name])
    loaders[midrun] = lambda: load_state(midrun)  # as a working checkpoint: it has no manifest, only its own digest
    return loaders


def outcome(path: Path, load: Callable[[], object]) -> str:
    """REFUSED, LOADED, or what went wrong with the refusal."""
    start = time.perf_counter()
    try:
        load()
        return LOADED
    except UserError as error:
        if path.name not in str(error):
            return f"the error does not name the file: {error}"
    except Exception as error:
        return repr(error)
    seconds = time.perf_counter() - start
    return REFUSED if seconds < SECONDS else f"took {seconds} s"


def try_copies(project: Path, n: int) -> Counter[str]:
    """Change and load so many copies of the files; how often each outcome came. The project is as before."""
    outcomes: Counter[str] = Counter()
    with contextlib.chdir(project):
        loaders = targets()
        for load in loaders.values():
            load()  # the negative control; and all that is imported is imported
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(n):
            rng = random.Random(number)
            path = rng.choice(list(loaders))
            whole = changed = path.read_bytes()
            while changed == whole:
                changed = mutate(rng, whole)
            path.write_bytes(changed)
            signal.alarm(10)  # ends this process, should a copy hang
            became = outcome(path, loaders[path])
            signal.alarm(0)
            outcomes[became if became == REFUSED else f"{number}: {path}: {became}"] += 1
            path.write_bytes(whole)
        if (grown := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10) > MEMORY:
            outcomes[f"{grown} bytes of memory"] += 1
    return outcomes


def flip_every_bit(folder: Path) -> int:
    """Flip each bit of a small file of each format; the number of flips. UserError when one is not refused."""
    arrays, specs = {"a": np.arange(6, dtype=np.float32)}, {"a": ("float32", (6,))}
    binary, text = folder / "small.safetensors", folder / "small.json"
    whole = {binary: tensors.encode_tensors(arrays), text: formats.json_bytes({"tokens": ["é", 1], "n": 2.5})}
    loaders: dict[Path, Callable[[], object]] = {
        binary: lambda: tensors.load_tensors(binary, specs),
        text: lambda: formats.read_json(text, files.sha256(whole[text])),
    }
    for path, load in loaders.items():
        for bit in range(len(whole[path]) * 8):
            damaged = bytearray(whole[path])
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            if (became := outcome(path, load)) != REFUSED:
                raise UserError(f"{path.name}, bit {bit} flipped: {became}")
    return sum(len(data) * 8 for data in whole.values())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{flip_every_bit(Path(temporary))} flipped bits refused, every one of a small file of each format")
        project = copy_project(Path(temporary) / "project", SHORT)
        must_run(project, sys.executable, "-c", program("shard_to_batches", "train"))
        damaged = try_copies(project, COPIES)
        print(f"{damaged[REFUSED]} of {COPIES} damaged copies refused", flush=True)
    if bad := sorted(damaged.keys() - {REFUSED}):
        raise UserError("\n".join(["the proof does not hold.", *bad[:20]]))


if __name__ == "__main__":
    process.run_command(main)
