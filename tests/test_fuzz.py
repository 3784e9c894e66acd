"""Malformed shards and parameters, thousands of them: valid, or one clear error, soon. Nothing else may come out."""

import json
import string
from dataclasses import asdict, fields

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minitrain.base.errors import UserError
from minitrain.corpus.rows import Row, parse_row
from minitrain.corpus.shards import read_shards
from minitrain.params import Params, read_params

MANY = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=8,
)
KEYS = [field.name for field in fields(Row)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def row(root):
    return json.loads((root / "data/shards/shard-00.jsonl").read_text().splitlines()[0])


@MANY
@given(key=st.sampled_from(KEYS), value=JSON, drop=st.booleans(), extra=st.none() | st.text())
def test_rows_with_any_value_in_any_key(row, key, value, drop, extra):
    changed = {**row, key: value}
    if drop:
        del changed[key]
    if extra is not None:
        changed[extra] = value
    try:
        parsed = parse_row(json.dumps(changed), "here:1")
    except UserError as error:
        assert str(error).startswith("here:1: ")
        assert "\n" not in str(error)
    else:
        assert asdict(parsed) == changed


@MANY
@given(
    data=st.binary(max_size=300) | st.text(alphabet=string.printable).map(str.encode),
    at=st.integers(0, 300),
    cut=st.integers(0, 9),
)
@example(data=b"\xef\xbb\xbf", at=0, cut=0)
def test_shards_with_any_bytes_anywhere(root, tmp_path, data, at, cut):
    whole = b"".join((root / "data/shards/shard-00.jsonl").read_bytes().splitlines(keepends=True)[:2])
    path = tmp_path / "shards" / "x.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(whole[:at] + data + whole[at + cut :])
    try:
        read_shards(path.parent)
    except UserError as error:
        assert "x.jsonl" in str(error)


@MANY
@given(
    section=st.sampled_from(["data", "split", "model", "train", "ngram"]),
    value=ANYTHING,
    choice=st.integers(0, 99),
)
def test_params_with_any_value_in_any_key(root, tmp_path, section, value, choice):
    params = yaml.safe_load((root / "params.yaml").read_text())
    keys = sorted(params[section])
    if choice < 5:
        params[section] = value
    else:
        params[section][keys[choice % len(keys)]] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params, allow_unicode=True), "utf-8")
    check_params(path)


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
def test_params_with_any_bytes_anywhere(root, tmp_path, data, at):
    whole = (root / "params.yaml").read_bytes()
    path = tmp_path / "params.yaml"
    path.write_bytes(whole[:at] + data + whole[at:])
    check_params(path)


def check_params(path):
    try:
        assert isinstance(read_params(path), Params)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
