"""Malformed shards and parameters, hundreds of them: valid, or one clear error, soon. Nothing else may come out."""

import json
import string
from dataclasses import asdict, fields

import yaml
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minitrain.base.errors import UserError
from minitrain.corpus.rows import Row, parse_row
from minitrain.corpus.shards import read_shards
from minitrain.params import read_params

MANY = settings(
    max_examples=200,
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


def value_or_one_clear_error(read, argument, place):
    """What ``read`` returns, or None where it refuses in one line that begins with the place."""
    try:
        return read(argument)
    except UserError as error:
        assert str(error).startswith(str(place))
        assert "\n" not in str(error)


@MANY
@given(key=st.sampled_from([field.name for field in fields(Row)]), value=anything(st.nothing(), st.text()))
def test_rows_with_any_value_in_any_key(key, value):
    changed = {**json.loads(LINES[0]), key: value}
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
    value_or_one_clear_error(read_shards, tmp_path, tmp_path / "x.jsonl")


@MANY
@given(section=st.sampled_from(sorted(SECTIONS)), value=anything(st.dates(), st.text() | st.integers()), data=st.data())
def test_params_with_any_value_in_any_key(tmp_path, section, value, data):
    key = data.draw(st.sampled_from(sorted(SECTIONS[section])))
    changed = {**SECTIONS, section: {**SECTIONS[section], key: value}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed, allow_unicode=True), "utf-8")
    value_or_one_clear_error(read_params, tmp_path / "params.yaml", tmp_path / "params.yaml")


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
@example(data=b"[" * 1000, at=0)
@example(data=b"!!python/object/apply:os.getcwd []", at=0)
def test_params_with_any_bytes_anywhere(tmp_path, data, at):
    (tmp_path / "params.yaml").write_bytes(PARAMS[:at] + data + PARAMS[at:])
    value_or_one_clear_error(read_params, tmp_path / "params.yaml", tmp_path / "params.yaml")
