"""Files appear whole or not at all, and a damaged one is refused."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from minitrain.base import files, formats, tensors
from minitrain.base.errors import UserError

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.asarray(7, dtype=np.int64)}
SPECS = {"a": ("float32", (2, 3)), "n": ("int64", ())}


def test_tensors_come_back_byte_for_byte(tmp_path):
    files.write_bytes(tmp_path / "t.safetensors", tensors.encode_tensors(TENSORS))
    loaded = tensors.load_tensors(tmp_path / "t.safetensors", SPECS)
    for name, array in TENSORS.items():
        assert loaded[name].tobytes() == array.tobytes()
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)


def test_loaded_tensors_can_be_changed_in_place(tmp_path):
    files.write_bytes(tmp_path / "t.safetensors", tensors.encode_tensors(TENSORS))
    loaded = tensors.load_tensors(tmp_path / "t.safetensors", SPECS)
    loaded["a"] += 1
    assert loaded["a"][0, 0] == 1


def test_the_file_is_a_pure_function_of_the_values():
    reordered = dict(reversed(TENSORS.items()))
    strided = {**TENSORS, "a": np.asfortranarray(TENSORS["a"])}
    assert tensors.encode_tensors(TENSORS) == tensors.encode_tensors(reordered) == tensors.encode_tensors(strided)


def test_golden_bytes():
    """The format itself: a change of it would orphan every checkpoint, so it must be meant."""
    digest = hashlib.sha256(b"n <i8 []\n" + (7).to_bytes(8, "little")).hexdigest()
    expected_header = (
        f'{{"__metadata__":{{"sha256":"{digest}"}},"n":{{"dtype":"I64","shape":[],"data_offsets":[0,8]}}}}'.encode()
    )
    data = tensors.encode_tensors({"n": np.asarray(7, dtype=np.int64)})
    size = int.from_bytes(data[:8], "little")
    assert data[8 : 8 + size].rstrip(b" ") == expected_header
    assert data[8 + size :] == (7).to_bytes(8, "little")


def test_every_flipped_bit_is_refused():
    data = tensors.encode_tensors(TENSORS)
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(UserError, match="damaged"):
            tensors.decode_tensors(bytes(damaged), "damaged")


def test_every_truncation_and_growth_is_refused():
    data = tensors.encode_tensors(TENSORS)
    for damaged in [*(data[:n] for n in range(len(data))), data + b"\0", data + data]:
        with pytest.raises(UserError):
            tensors.decode_tensors(damaged, "damaged")


def test_a_header_of_2_to_the_63_bytes_is_refused():
    with pytest.raises(UserError):
        tensors.decode_tensors((2**63).to_bytes(8, "little") + b"{}", "hostile")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": TENSORS["a"]}, "missing"),
        ({**TENSORS, "b": TENSORS["a"]}, "unknown"),
        ({**TENSORS, "a": TENSORS["a"].T.copy()}, r"a: expected float32\[2, 3\], got float32\[3, 2\]"),
        ({**TENSORS, "a": TENSORS["a"].astype(np.float64)}, "expected float32"),
        ({**TENSORS, "a": np.full((2, 3), np.nan, np.float32)}, "finite"),
        ({**TENSORS, "a": np.full((2, 3), np.inf, np.float32)}, "finite"),
    ],
)
def test_a_whole_file_with_other_content_is_refused(tmp_path, content, message):
    files.write_bytes(tmp_path / "t.safetensors", tensors.encode_tensors(content))
    with pytest.raises(UserError, match=message):
        tensors.load_tensors(tmp_path / "t.safetensors", SPECS)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("fifo", "folder", "link", "missing"):
        with pytest.raises(UserError, match=name):
            files.read_bytes(tmp_path / name)


def test_a_symbolic_link_is_named_as_such(tmp_path):
    (tmp_path / "target").write_bytes(b"x")
    for name, target in (("link", "target"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(
            UserError, match=f"{name}: expected a regular file, got a symbolic link. Put the file itself"
        ):
            files.read_bytes(tmp_path / name)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read: embedded null byte"):
        files.read_bytes(tmp_path / "a\0b")


@pytest.mark.parametrize("pid", ["99999999999999999999", "²", "x", ""])
def test_an_unfinished_file_with_a_number_that_no_process_has_is_removed(tmp_path, pid):
    (tmp_path / f".f.{pid}.tmp").write_bytes(b"half")
    files.write_bytes(tmp_path / "f", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_unfinished_files_of_a_folder_go_and_nothing_else(tmp_path):
    kept = {"f", f".f.{os.getpid()}.tmp", ".hidden", "f.tmp"}
    for name in (*kept, ".f.999999999.tmp", ".another.999999999.tmp"):
        (tmp_path / name).write_bytes(b"")
    files.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_sqlite_leaves_of_a_killed_process_goes_too(tmp_path):
    (tmp_path / ".f.999999999.tmp-journal").write_bytes(b"")
    files.write_bytes(tmp_path / "f", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_system_that_cannot_fsync_a_folder_will_do(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.write_bytes(tmp_path / "f", b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole"


def test_a_file_that_cannot_be_removed_is_named(tmp_path):
    files.remove(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be removed: "):
        files.remove(tmp_path)


def test_a_folder_is_locked_by_one(tmp_path):
    folder = tmp_path / "work"
    with files.exclusive_lock(folder):
        second = files.exclusive_lock(folder)
        with pytest.raises(UserError, match="another run is at work here"):
            second.__enter__()
    with files.exclusive_lock(folder):
        pass


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.exclusive_lock(tmp_path / "work"):
        assert "work cannot be locked (No locks available): let no other run" in capsys.readouterr().out


def test_a_file_that_cannot_be_fsynced_is_an_error(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(UserError, match="f: cannot be written: Invalid argument"):
        files.write_bytes(tmp_path / "f", b"whole")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    for operation in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, fail)
            with pytest.raises(UserError, match="No space left"):
                files.write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


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


def test_json_is_sorted_utf8_and_refuses_nan():
    assert formats.json_bytes({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        formats.json_bytes(float("nan"))


def test_broken_text_is_named_by_line(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{\n"a": 1,\n"b": \xff}')
    with pytest.raises(UserError, match=r"x\.json:3: expected UTF-8"):
        formats.read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b'{\n"a": 1,\n"b": }')
    with pytest.raises(UserError, match=r"x\.json:3: expected JSON"):
        formats.read_json(tmp_path / "x.json")


def test_metrics_keep_six_digits_and_tables_tell_float32_apart():
    assert formats.rounded({"x": [0.123456789, 1, "t", True]}) == {"x": [0.123457, 1, "t", True]}
    one, next_one = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    lines = formats.csv_bytes(["a", "b"], [(1, float(one)), (2, float(next_one))]).decode().splitlines()
    assert lines[0] == "a,b"
    assert np.float32(lines[1].split(",")[1]) == one
    assert np.float32(lines[2].split(",")[1]) == next_one
