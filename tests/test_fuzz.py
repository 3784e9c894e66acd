"""Malformed shards and parameters, thousands of them: valid, or one clear error, soon. Nothing else may come out."""

import json
import string
from dataclasses import asdict, fields
from pathlib import Path

import yaml
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minitrain.base.errors import UserError
from minitrain.corpus.rows import Row, parse_row
from minitrain.corpus.shards import Corpus, read_shards
from minitrain.params import Params, read_params

MANY = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def anything(leaves, keys):
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | leaves
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
    )


LINES = (ROOT / "data/shards/shard-00.jsonl").read_bytes().splitlines(keepends=True)
PARAMS = (ROOT / "params.yaml").read_bytes()
SECTIONS = yaml.safe_load(PARAMS)
DUMPED = {name: yaml.safe_dump({name: section}) for name, section in SECTIONS.items()}


def value_or_one_clear_error(read, argument, place: str):
    """What ``read`` returns, or None where it refuses in one line that begins with the place."""
    try:
        return read(argument)
    except UserError as error:
        assert str(error).startswith(place)
        assert "\n" not in str(error)
        return None


@MANY
@given(
    key=st.sampled_from([field.name for field in fields(Row)]),
    value=anything(st.nothing(), st.text()),
    drop=st.booleans(),
    extra=st.none() | st.text(),
)
def test_rows_with_any_value_in_any_key(key, value, drop, extra):
    changed = {**json.loads(LINES[0]), key: value}
    if drop:
        del changed[key]
    if extra is not None:
        changed[extra] = value
    row = value_or_one_clear_error(lambda line: parse_row(line, "here:1"), json.dumps(changed), "here:1: ")
    assert row is None or asdict(row) == changed


@MANY
@given(
    data=st.binary(max_size=300) | st.text(alphabet=string.printable).map(str.encode),
    at=st.integers(0, 300),
    cut=st.integers(0, 9),
)
@example(data=b"\xef\xbb\xbf", at=0, cut=0)
def test_shards_with_any_bytes_anywhere(tmp_path, data, at, cut):
    whole = b"".join(LINES[:2])
    (tmp_path / "x.jsonl").write_bytes(whole[:at] + data + whole[at + cut :])
    corpus = value_or_one_clear_error(read_shards, tmp_path, str(tmp_path / "x.jsonl"))
    assert corpus is None or isinstance(corpus, Corpus)


def params_or_one_clear_error(folder: Path, data: bytes) -> None:
    path = folder / "params.yaml"
    path.write_bytes(data)
    params = value_or_one_clear_error(read_params, path, str(path))
    assert params is None or isinstance(params, Params)


@MANY
@given(
    section=st.sampled_from(sorted(SECTIONS)),
    value=anything(st.dates(), st.text() | st.integers()),
    choice=st.integers(0, 99),
)
def test_params_with_any_value_in_any_key(tmp_path, section, value, choice):
    keys = sorted(SECTIONS[section])
    changed = value if choice < 5 else {**SECTIONS[section], keys[choice % len(keys)]: value}
    dumped = {**DUMPED, section: yaml.safe_dump({section: changed}, allow_unicode=True)}
    params_or_one_clear_error(tmp_path, "".join(dumped.values()).encode())


@MANY
@given(
    data=st.binary(max_size=200) | st.text(alphabet="{}[]:,#&*!|>'\"%@`\n -abc123.").map(str.encode),
    at=st.integers(0, 900),
)
@example(data=b"&a [*a]", at=0)
@example(data=b"? [a]\n: b\n", at=0)
@example(data=b'"a\\nb": 1\n', at=0)
@example(data=b'"\\ud800": 1\n', at=0)
@example(data=b"2001-99-99", at=0)
@example(data=b"[" * 5000, at=0)
@example(data=b"!!python/object/apply:os.getcwd []", at=0)
def test_params_with_any_bytes_anywhere(tmp_path, data, at):
    params_or_one_clear_error(tmp_path, PARAMS[:at] + data + PARAMS[at:])
