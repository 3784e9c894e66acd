"""Files appear whole or not at all, and a damaged one is refused.

That a write which fails leaves the old file is shown by proofs/faults.py, at every operation of the writer; that a
changed bit or a cut is noticed, by proofs/damage.py.
"""

import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from minitrain.base import files, formats, tensors
from minitrain.base.errors import UserError

# --- tensors -----------------------------------------------------------------------------------------

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.asarray(7, dtype=np.int64)}
SPECS = {"a": ("float32", (2, 3)), "n": ("int64", ())}


def test_the_file_is_a_pure_function_of_the_values():
    reordered = dict(reversed(TENSORS.items()))
    strided = {**TENSORS, "a": np.asfortranarray(TENSORS["a"])}
    assert tensors.encode_tensors(TENSORS) == tensors.encode_tensors(reordered) == tensors.encode_tensors(strided)


def test_the_format_is_still_the_same():
    """A change of it would orphan every checkpoint, so it must be meant."""
    digest = hashlib.sha256(b"n <i8 []\n" + (7).to_bytes(8, "little")).hexdigest()
    header = (
        f'{{"__metadata__":{{"sha256":"{digest}"}},"n":{{"dtype":"I64","shape":[],"data_offsets":[0,8]}}}}'.encode()
    )
    header += b" " * (-len(header) % 8)
    expected = len(header).to_bytes(8, "little") + header + (7).to_bytes(8, "little")
    assert tensors.encode_tensors({"n": np.asarray(7, dtype=np.int64)}) == expected


def test_a_file_cut_at_any_place_or_grown_or_with_a_strange_header_is_refused():
    """With any bit flipped: proofs/damage.py."""
    data = tensors.encode_tensors(TENSORS)
    cut = [data[:size] for size in range(len(data))]
    foreign = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'  # a type that NumPy has not
    foreign = len(foreign).to_bytes(8, "little") + foreign + bytes(2)
    for damaged in (*cut, data + b"\0", data + data, (2**63).to_bytes(8, "little") + data[8:], foreign):
        with pytest.raises(UserError, match="^t: "):
            tensors.decode_tensors(damaged, "t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": TENSORS["a"]}, "missing or unknown: n"),
        ({**TENSORS, "b": TENSORS["a"]}, "missing or unknown: b"),
        ({**TENSORS, "a": TENSORS["a"].T.copy()}, r"a: expected float32\[2, 3\], got float32\[3, 2\]"),
        ({**TENSORS, "a": TENSORS["a"].astype(np.float64)}, "expected float32"),
        ({**TENSORS, "a": np.full((2, 3), np.nan, np.float32)}, "finite"),
        ({**TENSORS, "a": np.full((2, 3), np.inf, np.float32)}, "finite"),
    ],
)
def test_a_whole_file_with_other_content_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        tensors.decode_tensors(tensors.encode_tensors(content), "t", SPECS)


# --- reading -----------------------------------------------------------------------------------------


NO_FILE = "expected a regular file, got a link, folder, device or pipe"


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), NO_FILE),
        (os.mkfifo, NO_FILE),  # and nobody waits for its writer
        (lambda path: path.symlink_to(__file__), NO_FILE),
        (lambda path: path.symlink_to("nowhere"), NO_FILE),
    ],
    ids=["nothing", "folder", "FIFO", "link", "dangling link"],
)
def test_what_is_no_regular_file_is_named_as_what_it_is(tmp_path, put, message):
    put(tmp_path / "f")
    with pytest.raises(UserError, match=f"/f: {message}"):
        files.read_bytes(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{\n"a": 1,\n"b": \xff}', r"x\.json:3: expected UTF-8"), (b'{\n"a": 1,\n"b": }', r"x\.json:3: expected JSON")],
)
def test_broken_text_is_named_by_line(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        formats.read_json(tmp_path / "x.json")


# --- writing -----------------------------------------------------------------------------------------


def test_content_is_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    """What a loss of power asks of the writer, and no fault that is injected can show."""
    done = []

    def recorded(operation):
        real = getattr(os, operation)

        def run(target, *args):
            where = os.readlink(f"/proc/self/fd/{target}") if operation == "fsync" else target
            done.append((operation, Path(where).suffix))
            return real(target, *args)

        return run

    for operation in ("fsync", "replace"):
        monkeypatch.setattr(os, operation, recorded(operation))
    files.write_bytes(tmp_path / "file", b"content")
    assert done == [("fsync", ".tmp"), ("replace", ".tmp"), ("fsync", "")]


def test_what_dead_writers_left_of_a_file_goes_with_the_next_write_and_nothing_else(tmp_path):
    others, of_another_file = {".hidden", "f.tmp"}, {".another.tmp"}
    for name in others | of_another_file | {".f.tmp", ".f.tmp-journal"}:  # the last by SQLite
        (tmp_path / name).write_bytes(b"half")
    files.write_bytes(tmp_path / "f", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"f"} | others | of_another_file
    files.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"f"} | others


def test_what_cannot_be_removed_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be removed: "):
        files.remove(tmp_path)


def test_a_folder_is_locked_by_one_until_it_is_done(tmp_path):
    with files.exclusive_lock(tmp_path / "at" / "work"), pytest.raises(UserError, match="another run is at work here"):
        files.exclusive_lock(tmp_path / "at" / "work").__enter__()
    with files.exclusive_lock(tmp_path / "at" / "work"):
        pass


# --- one spelling ------------------------------------------------------------------------------------


def test_json_is_sorted_utf8_refuses_nan_and_metrics_keep_six_digits():
    assert formats.rounded({"x": [0.123456789, 1, "t", True]}) == {"x": [0.123457, 1, "t", True]}
    assert formats.json_bytes({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        formats.json_bytes(float("nan"))


def test_tables_tell_float32_apart_and_a_cell_with_a_comma_stays_one_cell():
    one, next_one = 1.0, float(np.nextafter(np.float32(1), np.float32(2)))
    table = formats.csv_bytes(["a", "b"], [('x,"y', one), ("z", next_one)]).decode()
    names, first, second = csv.reader(table.splitlines())
    assert (names, first[0]) == (["a", "b"], 'x,"y')
    assert [np.float32(row[1]) for row in (first, second)] == [one, next_one]
