"""Ways to damage a file: its bits, its header, its content, the digests beside it, or what is in its place."""

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minitrain.base import files, formats, layout, tensors

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
    content = tensors.decode_tensors(data, "whole")
    name, other = rng.sample(sorted(content), 2)
    kind = rng.randrange(8)
    array = content[name].copy()
    if kind == 0:
        content[name] = array.astype(np.float64 if array.dtype != np.float64 else np.float32)
    elif kind == 1:
        content[name] = array.reshape(1, *array.shape)
    elif kind == 2:
        content[name + "x"] = content.pop(name)
    elif kind == 3:
        content["extra"] = array
    elif kind == 4:
        del content[name]
    elif kind == 5:
        content[name] = array.reshape(-1)[:-1].copy() if array.size > 1 else np.zeros((2, 2, 2))
    elif kind == 6:
        floats = [n for n, a in content.items() if a.dtype.kind == "f" and a.size] or [name]
        name = rng.choice(floats)
        array = content[name].copy()
        bad = rng.choice((np.nan, np.inf, -np.inf)) if array.dtype.kind == "f" else np.iinfo(array.dtype).max
        array.reshape(-1)[rng.randrange(array.size)] = bad
        content[name] = array
    else:  # of another config
        content[name], content[other] = np.zeros(7, np.float32), content[name].copy()
    return tensors.encode_tensors(content)


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
    return formats.json_bytes(value)


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
    return formats.json_bytes(root[0] if root else None)


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
        if damaged != data and not (kind == "checkpoint" and damage is other_content and loads_alike(data, damaged)):
            return damage.__name__, damaged


def loads_alike(data: bytes, damaged: bytes) -> bool:
    """A whole state file with other values is no damage: without a manifest beside it, it is just another state."""
    state, other = (tensors.decode_tensors(content, "whole") for content in (data, damaged))
    return state.keys() == other.keys() and all(
        (other[name].dtype, other[name].shape) == (array.dtype, array.shape)
        and (array.dtype.kind != "f" or bool(np.isfinite(other[name]).all()))
        for name, array in state.items()
    )


def forge_digest(kind: str, path: Path) -> Path:
    """Make the files beside ``path`` say that its content is the right one; where it is now."""
    digest = files.sha256(path.read_bytes())
    if kind in ("model", "state"):
        manifest_path = next(layout.MODELS.glob("*.manifest.json"))
        manifest = formats.read_json(manifest_path)
        if kind == "model":  # whose name is its digest
            path = path.rename(path.with_name(layout.model_name(digest)))
            manifest["model"] = path.name
        manifest["files"][path.name] = digest
        files.write_bytes(manifest_path, formats.json_bytes(manifest))
    elif kind in ("tokenizer", "train batches", "val batches"):
        summary = formats.read_json(path.with_name("summary.json"))
        summary["files"][path.name] = digest
        files.write_bytes(path.with_name("summary.json"), formats.json_bytes(summary))
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
