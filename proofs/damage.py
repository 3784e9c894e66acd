"""Damaged and hostile files: every one is refused with an error that names it, quickly, in little memory.

First every bit flipped of a small file of each format. Then thousands of copies of the files that the stages read,
changed at random: bits flipped, regions cut, inserted, repeated, swapped or replaced. A crash, a hang, a copy that
loads, a second or 200 MB too many is a failure. Negative controls: whole files load, and a loader without its check
of the digest is caught.

Then hostile copies, whose digests were made to match, all of them: changed tensors in whole files, headers that lie
about lengths and offsets, and JSON, those files too that hold the digests of others (manifest and summary). Some of
these load, as no loader can tell that they are others; the gate does, which makes them again and compares them byte
for byte. Nothing worse than that may happen.
"""

import contextlib
import functools
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import safetensors.numpy

from minitrain.base import UserError, files, formats, layout, process, tensors
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.training import checkpoint, export
from proofs import program
from proofs.project import SHORT, copy_project, must_run

COPIES, HOSTILE_COPIES = 10_000, 2_000
CHUNK = 250  # copies for each child process
MEMORY = 200 << 20  # bytes that the refusals of a child process may cost, beyond what the loaded libraries take
SECONDS = 1.0  # that a refusal may take
SUMMARY = layout.BATCHES / "summary.json"
HOSTILE_VALUES = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9" * 30,
    b'""',
    b'"../x"',
    b'"\\u0000"',
    b"[]",
    b"{}",
    b"[" * 9999,
)
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


def mutate_value(rng: random.Random, data: bytes) -> bytes:
    """JSON, or a safetensors file whose header can be read and lies: a word, a number or a list in it replaced."""
    size = 0 if data[:1] == b"{" else int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size] if size else data
    value = rng.choice(list(re.finditer(rb'"[^"]*"|[0-9.]+|\[[^\[\]]*\]', text)))
    text = text[: value.start()] + rng.choice(HOSTILE_VALUES) + text[value.end() :]
    return len(text).to_bytes(8, "little") + text + data[8 + size :] if size else text


def mutate_tensor(rng: random.Random, data: bytes) -> bytes:
    """A whole safetensors file with a tensor changed: its numbers and length, and perhaps its name."""
    content = tensors.decode_tensors(data, "whole")
    name, other = rng.choice(sorted(content)), rng.choice(sorted(content))
    array = content.pop(name)
    raw = mutate(rng, array.tobytes() or b"empty")
    changed = np.frombuffer(raw[: len(raw) // array.itemsize * array.itemsize], array.dtype)
    content[rng.choice((name, name, other, "x"))] = changed.reshape(array.shape if changed.size == array.size else -1)
    return tensors.encode_tensors(content)


def targets() -> dict[Path, Callable[[], object]]:
    """The files to damage and how the stages load each; in the project's folder."""
    params = read_params()
    (manifest,) = layout.MODELS.glob("*.manifest.json")
    model = layout.MODELS / export.read_manifest(layout.MODELS)["model"]
    state, midrun = layout.state_path(model), layout.MODELS / layout.MIDRUN_CHECKPOINT

    def load_state(path: Path, digest: str | None = None) -> object:
        return checkpoint.load_state(path, params.model, params.train, digest)

    loaders: dict[Path, Callable[[], object]] = dict.fromkeys(
        (layout.BATCHES / name for name in ("train.safetensors", "val.safetensors", "tokenizer.json", SUMMARY.name)),
        lambda: read_dataset(layout.BATCHES, params.model),
    )
    loaders |= dict.fromkeys(
        (model, manifest, layout.MODELS / layout.TOKENIZER), lambda: export.read_model(layout.MODELS, params.model)
    )
    loaders[state] = lambda: load_state(state, export.read_manifest(layout.MODELS)["files"][state.name])
    loaders[midrun] = lambda: load_state(midrun)  # as a working checkpoint: it has no manifest, only its own digest
    return loaders


def outcome(path: Path, load: Callable[[], object], must_name: bool) -> str:
    """REFUSED, LOADED, or what went wrong with the refusal."""
    start = time.perf_counter()
    try:
        load()
        return LOADED
    except UserError as error:
        if must_name and path.name not in str(error):
            return f"the error does not name the file: {error}"
    except Exception as error:
        return repr(error)
    seconds = time.perf_counter() - start
    return REFUSED if seconds < SECONDS else f"took {seconds} s"


def match_digests(path: Path, old: bytes, holders: list[Path]) -> None:
    """Where the digest of the content ``old`` is, beside ``path`` or in its name, put the digest that is right now."""
    before, now = files.sha256(old), files.sha256(path.read_bytes())
    for holder in holders:
        text = holder.read_text().replace(before, now)
        holder.write_text(text.replace(layout.model_name(before), layout.model_name(now)))
    if path.name == layout.model_name(before):
        shutil.copy(path, path.with_name(layout.model_name(now)))


def load_copies(project: Path, hostile: bool, careless: bool, numbers: range) -> list[str]:
    """Change and load the copies with these numbers, in this process and a copy of the project; what became of each."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(shutil.copytree(project, Path(folder) / "project")):
        loaders = targets()
        for load in loaders.values():
            load()  # the negative control; and all that is imported is imported
        if careless:
            mock.patch.object(tensors, "decode_tensors", lambda data, *_: safetensors.numpy.load(data)).start()
        roots = [path for path in loaders if path.name.endswith((".manifest.json", SUMMARY.name))]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            rng = random.Random(number)
            path = rng.choice([path for path in loaders if hostile or path not in roots])
            whole = {file: file.read_bytes() for file in (path, *roots)}
            ways = (mutate, mutate_value) if path.suffix == ".json" else (mutate, mutate_value, mutate_tensor)
            way = rng.choice(ways) if hostile else mutate
            changed = whole[path]
            while changed == whole[path]:
                changed = way(rng, changed)
            path.write_bytes(changed)
            if hostile:
                match_digests(path, whole[path], [root for root in roots if root != path])
            signal.alarm(10)  # ends this process, and the proof with it, should a copy hang
            became = outcome(path, loaders[path], must_name=not hostile)
            signal.alarm(0)
            may_load = hostile and (path.suffix == ".json" or way is mutate_tensor)
            fine = became == REFUSED or (became == LOADED and may_load)
            outcomes.append(became if fine else f"{number}: {path}, {way.__name__}: {became}")
            for file, content in whole.items():
                file.write_bytes(content)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    return outcomes if grown < MEMORY else [*outcomes, f"{numbers}: {grown} bytes of memory"]


def try_copies(project: Path, n: int, hostile: bool = False, careless: bool = False) -> Counter[str]:
    """All copies, in child processes, each of which loads a few and ends; how often each outcome came."""
    chunks = [range(first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        load = functools.partial(load_copies, project, hostile, careless)
        return Counter(result for results in pool.map(load, chunks) for result in results)


def is_caught(project: Path) -> bool:
    """The negative control: whether copies load where the digest within a safetensors file is not checked."""
    return any(result.endswith(LOADED) for result in try_copies(project, 100, careless=True))


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
            if (became := outcome(path, load, must_name=True)) != REFUSED:
                raise UserError(f"{path.name}, bit {bit} flipped: {became}")
    return sum(len(data) * 8 for data in whole.values())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{flip_every_bit(Path(temporary))} flipped bits refused, every one of a small file of each format")
        project = copy_project(Path(temporary) / "project", SHORT)
        must_run(project, sys.executable, "-c", program("shard_to_batches", "train"))
        if not is_caught(project):
            raise UserError("negative control: a loader without its digest check is not caught")
        print("negative controls: whole files load; a loader without its digest check is caught", flush=True)
        damaged = try_copies(project, COPIES)
        print(f"{damaged[REFUSED]} of {COPIES} damaged copies refused", flush=True)
        hostile = try_copies(project, HOSTILE_COPIES, hostile=True)
    refused, loaded = hostile[REFUSED], hostile[LOADED]
    print(f"{refused} of {HOSTILE_COPIES} hostile copies refused; {loaded} load, which the gate has to find")
    if bad := sorted((damaged + hostile).keys() - {REFUSED, LOADED}):
        raise UserError("\n".join(["the proof does not hold.", *bad[:20]]))


if __name__ == "__main__":
    process.run_command(main)
