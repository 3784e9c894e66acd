"""params.yaml: everything that is wrong with it is named."""

import dataclasses

import pytest
import ruamel.yaml
from conftest import ROOT

from minitrain.base.errors import UserError
from minitrain.params import Params, read_params

TEXT = (ROOT / "params.yaml").read_text()


def read_text(folder, text: str) -> Params:
    (folder / "params.yaml").write_text(text)
    return read_params(folder / "params.yaml")


def read_by_dvc(text: str) -> dict:
    """DVC reads its parameters with ruamel.yaml. A value that we read as another would train another model than DVC
    records.
    """
    return ruamel.yaml.YAML(typ="safe").load(text)


def test_the_committed_file_is_read_as_dvc_reads_it(tmp_path):
    assert dataclasses.asdict(read_text(tmp_path, TEXT)) == read_by_dvc(TEXT)


WHOLE = "train.steps: expected a whole number"
BAD = {
    "unknown key": ("  steps: 2000", "  steps: 2000\n  stepps: 3", "params.yaml:26: train.stepps: unknown key."),
    "misspelled key": (
        "  steps: 2000",
        "  stepps: 2000",
        "params.yaml:25: train.stepps: unknown key; missing here: steps.",
    ),
    "section without keys": ("ngram:\n", "ngram:\nold:\n", "ngram: expected keys with values, got NoneType None."),
    "unknown section": ("data:\n", "extra: 1\ndata:\n", "extra: unknown key"),
    "missing key": ("  steps: 2000\n", "", "params.yaml:23: train.steps: this key is missing."),
    "base sixty": ("  lr: 0.003", "  lr: 1:30.5", "train.lr: expected a number, got str '1:30.5'."),
    "yes for text": ("by: cell", "by: yes", "split.by: expected one of 'cell', 'verb_tense' or 'verb', got str 'yes'."),
    "text for number": ("steps: 2000", "steps: many", f"{WHOLE}, got str 'many'"),
    "float for int": ("steps: 2000", "steps: 2000.5", f"{WHOLE}, got float"),
    "bool for int": ("steps: 2000", "steps: true", f"{WHOLE}, got bool True."),
    "null": ("steps: 2000", "steps:", f"{WHOLE}, got NoneType"),
    "out of range": ("steps: 2000", "steps: 0", "params.yaml:25: train.steps: expected at least 1, got int 0."),
    "not a number": ("lr: 0.003", "lr: .nan", "train.lr: expected a finite number, got float nan."),
    "infinite": ("lr: 0.003", "lr: .inf", "train.lr: expected a finite number, got float inf."),
    "too large": ("lr: 0.003", "lr: 2e6", "train.lr: expected at most 1000000.0, got float 2000000.0."),
    "so small that float32 cannot divide by it": ("lr: 0.003", "lr: 1.0e-50", "train.lr: expected at least 1e-12, got"),
    "bool for number": ("lr: 0.003", "lr: true", "train.lr: expected a number, got bool True."),
    "a whole fraction": ("val_fraction: 0.15", "val_fraction: 1", "split.val_fraction: expected less than 1"),
    "no vocabulary": ("vocab_size: 64", "vocab_size: 4", "params.yaml:15: model.vocab_size: expected at least 5"),
    "heads": (
        "n_heads: 4",
        "n_heads: 5",
        "params.yaml:17: model.n_heads: expected a divisor of d_model / 2 = 32 (each",
    ),
    "odd head": ("d_model: 64", "d_model: 4", "model.n_heads: expected a divisor of d_model / 2 = 2 (each head"),
    "heads, and no d_model": ("d_model: 64", "d_model: 0", "model.d_model: expected at least 2, got int 0."),
    "learning rates": ("lr_final: 0.0003", "lr_final: 1.0", "train.lr_final: expected at most train.lr"),
    "n-grams": ("max_order: 7", "max_order: 1", "ngram.max_order: expected at least 2"),
    "microshards": ("batch_size: 32", "batch_size: 1", "train.microshards: expected at most train.batch_size"),
    "fractions": (
        "val_fraction: 0.15",
        "val_fraction: 0.9",
        "split.val_fraction: expected less than 1 together with test_fraction",
    ),
    "split": ("by: cell", "by: verbs", "split.by: expected one of 'cell', 'verb_tense' or 'verb', got str 'verbs'."),
    "absolute path": ("shards: data/shards", "shards: /data", "data.shards: expected a path inside the project"),
    "path out of the project": (
        "shards: data/shards",
        "shards: ../x",
        "data.shards: expected a path inside the project",
    ),
    "section that is no mapping": ("ngram:\n", "ngram: 5\nold:\n", "ngram: expected keys with values, got int 5."),
    "broken YAML": ("data:\n", "data: [\n", "expected YAML"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(tmp_path, name):
    old, new, message = BAD[name]
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, TEXT.replace(old, new, 1))
    assert str(caught.value).startswith(str(tmp_path / "params.yaml"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spelling", "value"), [("010", 10), ("1e1", 10.0), ("+.5", 0.5), ("10", 10.0), ("1E-3", 1e-3)]
)
def test_a_value_is_what_dvc_reads(tmp_path, spelling, value):
    """YAML 1.2; by 1.1, as PyYAML reads it, some of these are texts or octal."""
    text = TEXT.replace("weight_decay: 0.1", f"weight_decay: {spelling}")
    assert read_text(tmp_path, text).train.weight_decay == read_by_dvc(text)["train"]["weight_decay"] == value
