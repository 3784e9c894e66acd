"""Damaged and hostile files: every one is refused with an error that names it, quickly, in little memory.

Thousands of damaged copies of the model, the state, the batches and the tokenizer: bit flips anywhere, truncation,
growth, blocks overwritten or swapped, headers that lie about lengths and offsets, whole files with other tensors,
dtypes, shapes, values or keys, another config's file, and a symlink, folder or FIFO in the file's place. The loading
happens in child processes; a crash, a hang, a file that loads, a second or 200 MB too many is a failure. Negative
controls: the undamaged files do load, and a loader without its digest check is caught.

Then thousands of hostile copies: the digest that should have told is forged as well, and the files that hold digests
(manifest and summary.json) are changed themselves. Some of these load: whole files of other content, and JSON in which
only some value, or only its spelling, is another. No loader can tell; the gate does, which makes these files again and
compares them byte for byte. All else is refused.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import numpy as np

from minitrain import checkpoint, files
from minitrain.errors import UserError, run_command
from minitrain.params import read_params
from proofs.project import ROOT, SHORT, SIZE, copy_project
from stages.inputs import model_file_name, read_batches, read_model

MEMORY = 200 << 20  # bytes that a refusal may cost, beyond what the loaded libraries take
SECONDS = 1.0  # that a refusal may take
CHUNK = 250  # damaged copies for each child process
DIGEST_CHECK = 'if metadata != {"sha256": _digest(tensors)} or encode_tensors(tensors) != data:'


def targets(project: Path) -> dict[str, Path]:
    """The files to damage, by what they are."""
    model = next(path for path in (project / "models").glob("*.safetensors") if ".state." not in path.name)
    return {
        "model": model,
        "state": model.with_name(model.name.replace(".safetensors", ".state.safetensors")),
        "checkpoint": project / "models" / "evidence" / "kept.safetensors",
        "train batches": project / "data" / "batches" / "train.safetensors",
        "val batches": project / "data" / "batches" / "val.safetensors",
        "tokenizer": project / "data" / "batches" / "tokenizer.json",
    }


def roots(project: Path) -> dict[str, Path]:
    """The files that hold the digests of the others, and have none themselves."""
    return {
        "manifest": next((project / "models").glob("*.manifest.json")),
        "summary": project / "data" / "batches" / "summary.json",
    }


def load(kind: str, path: Path) -> None:
    """Load a target the way the stages do; in the project's folder."""
    if kind in ("model", "manifest"):
        read_model(read_params())
    elif kind == "state":
        digest = read_manifest()["files"][path.name]
        checkpoint.load_state(path, SIZE, digest)
    elif kind == "checkpoint":  # a working checkpoint has no manifest, only its own digest
        checkpoint.load_state(path, SIZE)
    else:
        read_batches(read_params())


def read_manifest() -> dict[str, dict[str, str]]:
    manifest: dict[str, dict[str, str]] = files.read_json(next(Path("models").glob("*.manifest.json")))
    return manifest


# --- ways to damage --------------------------------------------------------------------------------------

Damage = Callable[[random.Random, bytes], bytes]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8, 100))):
        position = rng.randrange(len(damaged) * 8)
        damaged[position // 8] ^= 1 << position % 8
    return bytes(damaged)


def flip_in_header(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[rng.randrange(min(len(data), 2000))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 7, 8, 9, rng.randrange(len(data)), len(data) - 1))]


def grow(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\0", b" ", b"{}", rng.randbytes(rng.randrange(1, 5000)), data))


def overwrite(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data)), rng.randrange(1, 4096)
    return (
        data[:start]
        + rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))[: len(data) - start]
        + data[start + size :]
    )


def swap_blocks(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice((1, 4, 64, 1024))
    a, b = sorted(rng.sample(range(0, len(data) - size), 2))
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
        if b >= a + size
        else data[::-1]
    )


def lie_about_header(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice((0, 1, 2**63, 2**64 - 1, 2**32, len(data), len(data) * 2, rng.randrange(2**64)))
    return size.to_bytes(8, "little") + data[8:]


def lie_in_header(rng: random.Random, data: bytes) -> bytes:
    """A parseable header with an entry that is not true: offsets, shape, dtype, an entry twice, huge numbers."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    kind = rng.randrange(7)
    if kind == 0:
        entry["data_offsets"] = [rng.choice((0, -1, 2**62, 2**63)), rng.choice((0, 5, 2**62, 2**70))]
    elif kind == 1:
        entry["shape"] = rng.choice(([], [0], [2**40, 2**40], [-1], [1.5], "x", [2**63]))
    elif kind == 2:
        entry["dtype"] = rng.choice(("F64", "I8", "F8_E4M3", "BF16", "nonsense", 5, None))
    elif kind == 3:
        header["__metadata__"] = rng.choice(
            ({}, {"sha256": "0" * 64}, {"other": "x"}, "x", {"sha256": "0", "more": "x"})
        )
    elif kind == 4:
        header[rng.choice(("extra", "", "a" * 10_000))] = entry
    elif kind == 5:
        del header[rng.choice(list(header))]
    text = json.dumps(header, separators=(",", ":"))
    if kind == 6:  # the same key twice
        text = text[:-1] + "," + json.dumps(names[0]) + ":" + json.dumps(header[names[0]]) + "}"
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data[8 + size :]


def other_content(rng: random.Random, data: bytes) -> bytes:
    """A whole file of this project, digest and all, that is not this file: tensors changed, renamed, swapped,
    retyped.
    """
    tensors = files.decode_tensors(data, "whole")
    name, other = rng.sample(sorted(tensors), 2)
    kind = rng.randrange(8)
    array = tensors[name].copy()
    if kind == 0:
        tensors[name] = array.astype(np.float64 if array.dtype != np.float64 else np.float32)
    elif kind == 1:
        tensors[name] = array.reshape(1, *array.shape)
    elif kind == 2:
        tensors[name + "x"] = tensors.pop(name)
    elif kind == 3:
        tensors["extra"] = array
    elif kind == 4:
        del tensors[name]
    elif kind == 5:
        tensors[name] = array.reshape(-1)[:-1].copy() if array.size > 1 else np.zeros((2, 2, 2))
    elif kind == 6:
        floats = [n for n, a in tensors.items() if a.dtype.kind == "f" and a.size] or [name]
        name = rng.choice(floats)
        array = tensors[name].copy()
        bad = rng.choice((np.nan, np.inf, -np.inf)) if array.dtype.kind == "f" else np.iinfo(array.dtype).max
        array.reshape(-1)[rng.randrange(array.size)] = bad
        tensors[name] = array
    else:  # of another config
        tensors[name], tensors[other] = np.zeros(7, np.float32), tensors[name].copy()
    return files.encode_tensors(tensors)


def other_json(rng: random.Random, data: bytes) -> bytes:
    """JSON that parses and is no tokenizer, or another one."""
    value = json.loads(data)
    kind = rng.randrange(6)
    if kind == 0:
        rng.shuffle(value["tokens"])
    elif kind == 1:
        value["merges"].pop(rng.randrange(len(value["merges"])))
    elif kind == 2:
        value["tokens"][rng.randrange(64)] = rng.choice(
            (5, None, "", "x" * 9, ["a"], value["tokens"][rng.randrange(64)] + "x")
        )
    elif kind == 3:
        value = rng.choice((None, [], {}, 5, "x", {"tokens": [], "merges": []}))
    elif kind == 4:
        del value[rng.choice(sorted(value))]
    else:
        return b'{"tokens":' * rng.choice((1, 100_000)) + data
    return files.canonical_json(value).encode()


def other_value(rng: random.Random, data: bytes) -> bytes:
    """JSON with one value, anywhere in it, removed or replaced."""
    root = [json.loads(data)]
    holder: Any = root
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.2:
            break
        holder = holder[key]
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = rng.choice((None, True, -1, 2**70, 1e308, "", "x", "../x", "\0", [], {}, [[]], {"x": 1}))
    return files.canonical_json(root[0] if root else None).encode()


BINARY: tuple[Damage, ...] = (
    flip_bits,
    flip_in_header,
    truncate,
    grow,
    overwrite,
    swap_blocks,
    lie_about_header,
    lie_in_header,
    other_content,
)
TEXT: tuple[Damage, ...] = (flip_bits, truncate, grow, overwrite, swap_blocks, other_json)
ROOT_OF_TRUST: tuple[Damage, ...] = (flip_bits, truncate, grow, overwrite, swap_blocks, other_value, other_value)
DAMAGES = {"tokenizer": (*TEXT, other_value), "manifest": ROOT_OF_TRUST, "summary": ROOT_OF_TRUST}


def damaged_copy(rng: random.Random, kind: str, data: bytes) -> tuple[str, bytes]:
    """A copy that is really another one; by what way it came about."""
    while True:
        damage = rng.choice(DAMAGES.get(kind, BINARY))
        damaged = damage(rng, data)
        if damaged != data and not (kind == "checkpoint" and damage is other_content and loads_alike(damaged)):
            return damage.__name__, damaged


def loads_alike(data: bytes) -> bool:
    """A whole state file with other values is no damage: without a manifest beside it, it is just another state."""
    layout = checkpoint.state_layout(SIZE)
    tensors = files.decode_tensors(data, "whole")
    return tensors.keys() == layout.keys() and all(
        tensors[name].dtype == dtype
        and tensors[name].ndim == len(shape)
        and all(want in (None, have) for want, have in zip(shape, tensors[name].shape, strict=True))
        and (tensors[name].dtype.kind != "f" or bool(np.isfinite(tensors[name]).all()))
        for name, (dtype, shape) in layout.items()
    )


def forge_digest(kind: str, path: Path) -> Path:
    """Make the files beside ``path`` say that its content is the right one; where it lies now."""
    digest = files.sha256(path.read_bytes())
    if kind in ("model", "state"):
        manifest_path = next(Path("models").glob("*.manifest.json"))
        manifest = files.read_json(manifest_path)
        if kind == "model":  # whose name is its digest
            path = path.rename(path.with_name(model_file_name(digest)))
            manifest["model"] = path.name
        manifest["files"][path.name] = digest
        files.write_json(manifest_path, manifest)
    elif kind in ("tokenizer", "train batches", "val batches"):
        summary = files.read_json(path.with_name("summary.json"))
        summary["files"][path.name] = digest
        files.write_json(path.with_name("summary.json"), summary)
    return path


def in_its_place(rng: random.Random, path: Path) -> str:
    """Put something that is no file where the file is; what it is."""
    path.unlink()
    kind = rng.choice(("symlink", "dangling symlink", "folder", "FIFO", "nothing"))
    if kind == "symlink":
        path.symlink_to(path.with_name("original"))
    elif kind == "dangling symlink":
        path.symlink_to("nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    return kind


def restore(path: Path, data: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    with suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(data)


# --- the child: damages and loads ------------------------------------------------------------------------


def child(project: Path, first: int, n: int, hostile: bool) -> None:
    """Damage and load copies number ``first`` to ``first + n``; prints what happened as JSON."""

    def hangs(*_: object) -> None:
        raise TimeoutError("took more than ten seconds")

    signal.signal(signal.SIGALRM, hangs)
    kinds, bad, slowest = Counter[str](), [], 0.0
    with chdir(project):
        paths = targets(Path()) | (roots(Path()) if hostile else {})
        originals = {kind: (path, path.read_bytes()) for kind, path in paths.items()}
        for kind, path in paths.items():
            load(kind, path)  # the negative control: whole files do load, and all that is imported is imported
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, first + n):
            rng = random.Random(number)
            kind = rng.choice(list(originals))
            path, data = originals[kind]
            if not hostile and rng.random() < 0.03:
                path.with_name("original").write_bytes(data)
                how = in_its_place(rng, path)
            else:
                how, damaged = damaged_copy(rng, kind, data)
                path.write_bytes(damaged)
                if hostile:
                    path = forge_digest(kind, path)
            signal.alarm(10)
            start = time.perf_counter()
            result = "refused"
            try:
                load(kind, path)
                result = "loaded"
                if not (hostile and (kind in DAMAGES or how == "other_content")):
                    bad.append(f"{number}: {kind}, {how}: loaded")
            except UserError as error:
                if path.name not in str(error) and not hostile:
                    bad.append(f"{number}: {kind}, {how}: the error does not name the file: {error}")
            except BaseException as error:
                bad.append(f"{number}: {kind}, {how}: {error!r}")
            slowest = max(slowest, time.perf_counter() - start)
            signal.alarm(0)
            path.with_name("original").unlink(missing_ok=True)
            if hostile:
                path.unlink()
            for original, content in originals.values() if hostile else [originals[kind]]:
                restore(original, content)
            kinds[f"{kind}: {how}{', loaded' if result == 'loaded' else ''}"] += 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    print(json.dumps({"kinds": kinds, "bad": bad, "slowest": slowest, "grown": grown}))


def run_children(
    project: Path, n: int, code: Path = ROOT, hostile: bool = False
) -> tuple[Counter[str], list[str], float, int]:
    """All damaged copies, loaded in child processes by the ``code`` of a project; counts by kind, what went wrong,
    the slowest refusal, the most memory.
    """
    kinds, bad, slowest, grown = Counter[str](), list[str](), 0.0, 0
    for first in range(0, n, CHUNK):
        command = [
            sys.executable,
            "-m",
            "proofs.damage",
            "--child",
            str(project),
            str(first),
            str(min(CHUNK, n - first)),
            "hostile" if hostile else "damaged",
        ]
        result = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            bad.append(f"copies from {first}: the process ended with {result.returncode}: {result.stderr[-500:]}")
            continue
        report = json.loads(result.stdout)
        kinds.update(report["kinds"])
        bad += report["bad"]
        slowest, grown = max(slowest, report["slowest"]), max(grown, report["grown"])
        done, what = min(first + CHUNK, n), "hostile" if hostile else "damaged"
        print(f"\r{done} of {n} {what} copies, {len(bad)} not refused as they should be", end="", flush=True)
    print()
    return kinds, bad, slowest, grown


def digest_check_matters(project: Path, careless: Path) -> bool:
    """The negative control: whether damaged files of a project load in ``careless``, code without the digest check."""
    copy_project(careless)
    shutil.copytree(ROOT / "proofs", careless / "proofs")
    module = careless / "minitrain" / "files.py"
    code = module.read_text()
    assert DIGEST_CHECK in code
    module.write_text(code.replace(DIGEST_CHECK, "if False:"))
    _, bad, _, _ = run_children(project, 100, careless)
    return any(line.endswith(": loaded") for line in bad)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.damage")
    parser.add_argument("--copies", type=int, default=10_000, help="damaged copies (default: 10000)")
    parser.add_argument("--hostile", type=int, default=2_000, help="copies with forged digests (default: 2000)")
    parser.add_argument("--child", nargs=4, metavar=("PROJECT", "FIRST", "N", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        project, first, n, kind = arguments.child
        child(Path(project), int(first), int(n), kind == "hostile")
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        project = copy_project(Path(temporary) / "project", SHORT)
        code = "from stages import shard_to_batches, train; shard_to_batches.produce(); train.produce()"
        subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
        kinds, bad, slowest, grown = run_children(project, arguments.copies)
        forged, forged_bad, forged_slowest, forged_grown = run_children(project, arguments.hostile, hostile=True)
        for kind, count in sorted(kinds.items()):
            print(f"  {count:5}  {kind}")
        print("negative control, a loader without its digest check:")
        noticed = digest_check_matters(project, Path(temporary) / "careless")
    loaded = Counter[str]()
    for kind, count in forged.items():
        if kind.endswith(", loaded"):
            loaded[kind.split(":")[0]] += count
    which = ", ".join(f"{count} {kind}" for kind, count in loaded.most_common())
    print(
        f"{kinds.total() - len(bad)} refused, {len(bad)} not; of {forged.total()} with forged digests "
        f"{forged.total() - loaded.total() - len(forged_bad)} refused, {len(forged_bad)} not, {loaded.total()} load, "
        f"which the gate has to find ({which}); "
        f"slowest {max(slowest, forged_slowest):.3f} s, most memory {max(grown, forged_grown) / 2**20:.0f} MB; "
        f"undamaged files load; a loader without its digest check is {'caught' if noticed else 'NOT CAUGHT'}; "
        f"{time.monotonic() - start:.0f} s"
    )
    bad += forged_bad
    if bad or max(slowest, forged_slowest) > SECONDS or max(grown, forged_grown) > MEMORY or not noticed:
        raise UserError("\n".join(["the proof does not hold.", *bad[:20]]))


if __name__ == "__main__":
    run_command(main)
