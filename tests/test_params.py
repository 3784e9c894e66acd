"""params.yaml: everything that is wrong with it is named."""

import pytest

from minitrain.errors import UserError
from minitrain.params import read_params


@pytest.fixture
def text(root):
    return (root / "params.yaml").read_text()


def test_the_committed_file_is_valid(root):
    params = read_params(root / "params.yaml")
    assert params.train.steps == 2000
    assert isinstance(params.train.eps, float)


WHOLE = "train.steps: expected a whole number from 1 to 1000000000"
BAD = {
    "unknown key": ("  steps: 2000", "  steps: 2000\n  stepps: 3", "train.stepps: unknown key"),
    "unknown section": ("data:\n", "extra: 1\ndata:\n", "extra: unknown key"),
    "missing key": ("  steps: 2000\n", "", "key train.steps is missing"),
    "octal, or is it": ("  steps: 2000", "  steps: 02000", "line 26: expected a plain decimal number, got 02000."),
    "base sixty": ("  lr: 0.003", "  lr: 1:30.5", "expected a plain decimal number, got 1:30.5."),
    "underscores": ("  steps: 2000", "  steps: 2_000", "expected a plain decimal number, got 2_000."),
    "an alias": ("  steps: 2000", "  steps: &n 2000\n  eval_every: *n", "'*n' is an alias. Write the value itself."),
    "twice": ("  steps: 2000", "  steps: 2000\n  steps: 100", "key 'steps' stands twice"),
    "text for number": ("steps: 2000", "steps: many", f"{WHOLE}, got str 'many'"),
    "float for int": ("steps: 2000", "steps: 2000.5", f"{WHOLE}, got float"),
    "bool for int": ("steps: 2000", "steps: true", f"{WHOLE}, got bool"),
    "null": ("steps: 2000", "steps:", f"{WHOLE}, got NoneType"),
    "out of range": ("steps: 2000", "steps: 0", f"{WHOLE}, got 0"),
    "not a number": ("lr: 0.003", "lr: .nan", "train.lr: expected a number from 1e-12 to 1e6"),
    "infinite": ("lr: 0.003", "lr: .inf", "train.lr: expected a number from 1e-12 to 1e6"),
    "so small that float32 cannot divide by it": ("lr: 0.003", "lr: 1.0e-50", "train.lr: expected a number from 1e-12"),
    "exponent that YAML takes for text": ("eps: 1.0e-8", "eps: 1e-8", "write 1.0e-8"),
    "heads": ("n_heads: 4", "n_heads: 5", "model.d_model: expected a multiple of 2 * n_heads = 10"),
    "odd head": ("d_model: 64", "d_model: 4", "model.d_model: expected a multiple of 2 * n_heads"),
    "learning rates": ("lr_final: 0.0003", "lr_final: 1.0", "train.lr_final: expected at most train.lr"),
    "microshards": ("batch_size: 32", "batch_size: 1", "train.microshards: expected at most train.batch_size"),
    "fractions": ("val_fraction: 0.15", "val_fraction: 0.9", "expected less than 1"),
    "split": ("by: cell", "by: verbs", "split.by: expected cell, verb_tense or verb, got 'verbs'"),
    "absolute path": ("shards: data/shards", "shards: /data", "data.shards: expected a path inside the project"),
    "path out of the project": (
        "shards: data/shards",
        "shards: ../x",
        "data.shards: expected a path inside the project",
    ),
    "section that is no mapping": ("ngram:\n", "ngram: 5\nold:\n", "old: unknown key"),
    "broken YAML": ("data:\n", "data: [\n", "expected YAML"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(text, tmp_path, name):
    old, new, message = BAD[name]
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_params(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "5", "[]", "just text", "data: 1"])
def test_what_is_no_params_file_is_named(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(UserError, match=r"params\.yaml"):
        read_params(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml: not found. Run this in the project's root"):
        read_params(tmp_path / "nowhere.yaml")
