"""Arrays in safetensors files, each with a digest of our own, which the format does not have."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from minitrain.base import UserError, files

Tensors = dict[str, np.ndarray]
TensorSpecs = Mapping[str, tuple[str, tuple[int | None, ...]]]  # dtype and shape by name; None is any length


def encode_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The safetensors file of some arrays, as bytes: a pure function of names, dtypes, shapes and values.

    The format keeps no order among several metadata keys, so the only key is ``sha256``, our digest of
    everything else.
    """
    # safetensors 0.8.0 writes wrong bytes for strided arrays. (ascontiguousarray makes a scalar 1-D.)
    whole = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    return safetensors.numpy.save(whole, metadata={"sha256": tensors_digest(whole)})


def decode_tensors(data: bytes, name: str, expected: TensorSpecs | None = None) -> Tensors:
    """The arrays in a file written by ``encode_tensors``; ``expected`` gives their dtypes and shapes by name.

    Raises UserError, naming ``name``, unless the bytes are exactly what ``encode_tensors`` would write: a file that
    is cut, grown, altered or written by something else is refused. So is one with anything else than ``expected``.
    """
    try:
        tensors: Tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: expected a whole safetensors file of this project, got a damaged one: {error}."
        ) from error
    if encode_tensors(tensors) != data:  # the digest is part of it
        raise UserError(f"{name}: its content does not match its digest: it was altered after it was written.")
    if expected is not None:
        _check_tensors(tensors, expected, name)
    return tensors


def _check_tensors(tensors: Tensors, expected: TensorSpecs, name: str) -> None:
    if others := sorted(tensors.keys() ^ expected.keys()):
        raise UserError(f"{name}: tensors missing or unknown: {', '.join(others)}. Is it of another config?")
    for key, (dtype, shape) in expected.items():
        got = tensors[key]
        fits = len(got.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, got.shape, strict=True)
        )
        if got.dtype != dtype or not fits:
            want_text = f"{dtype}{[('any' if n is None else n) for n in shape]}"
            raise UserError(
                f"{name}: {key}: expected {want_text}, got {got.dtype}{list(got.shape)}. Is it of another config?"
            )
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            raise UserError(f"{name}: {key}: expected finite numbers, got NaN or infinity.")


def load_tensors(path: Path, expected: TensorSpecs, expected_sha256: str | None = None) -> Tensors:
    """Read arrays back; UserError as for ``decode_tensors``, or when the file has another digest."""
    return decode_tensors(files.read_bytes(path, expected_sha256), str(path), expected)


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over the names, dtypes, shapes and bytes of some arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
