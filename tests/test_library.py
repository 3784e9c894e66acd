"""The library trains, resumes, saves, loads and scores without the pipeline. That it installs: make prove-library."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from closure import PACKAGES, import_closure, imported_modules
from conftest import OF_THE_PIPELINE, TINY_MODEL, TINY_TRAIN, random_store, run_without

import minitrain
from minitrain import loop
from minitrain.dataset.read import read_dataset
from minitrain.minitorch import arithmetic
from minitrain.training.state import initial_state
from proofs.project import must_run


def test_the_library_needs_the_packages_that_pyproject_names_and_no_other(root, monkeypatch):
    monkeypatch.chdir(root)
    modules = {name for path in import_closure(Path("minitrain/api.py")) for name in imported_modules(path)}
    needed = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) - set(PACKAGES)
    asked = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    assert needed == {package.split("-")[0] for package in asked}  # ruamel-yaml is imported as ruamel.yaml


def test_every_public_name_is_there_and_said_in_the_docstring():
    assert minitrain.__doc__ is not None
    said = re.findall(r"^(\w+(?:, \w+)*) {2,}", minitrain.__doc__, re.MULTILINE)
    assert sorted(", ".join(said).split(", ")) == sorted(minitrain.__all__) == sorted(dir(minitrain))
    for name in minitrain.__all__:
        assert callable(getattr(minitrain, name))
    with pytest.raises(AttributeError, match="module 'minitrain' has no attribute 'trian'"):
        _ = minitrain.trian


# --- train, go on, save, load, score -------------------------------------------------------------------


def test_the_example_trains_resumes_and_scores_without_the_pipeline(root, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    result = run_without(OF_THE_PIPELINE, root / "examples/train_in_30_lines.py", folder, tmp_path / "hook")
    assert result.stderr == ""
    right, wrong = (float(number) for number in re.findall(r"perplexity of .*: (\S+)", result.stdout))
    assert right < wrong - 0.2
    assert minitrain.load(folder / "my-model").config.d_model == 32


def test_the_library_trains_to_the_bits_of_the_loop_and_its_model_comes_back(train_set, val_set, tmp_path):
    ours, loops = (initial_state(TINY_MODEL, TINY_TRAIN) for _ in range(2))
    tokenizer = minitrain.train_tokenizer(["abc abc", "abd"], 10)
    for event in minitrain.train(ours, train_set, val_set, TINY_MODEL, TINY_TRAIN):
        if isinstance(event, minitrain.Evaluation):  # each in place of the one before
            minitrain.save(tmp_path / "model", ours, tokenizer, TINY_MODEL)
    for _ in loop.train(loops, train_set, val_set, TINY_MODEL, TINY_TRAIN):
        pass
    loaded = minitrain.load(tmp_path / "model")
    assert (loaded.config, loaded.tokenizer) == (TINY_MODEL, tokenizer)
    assert loaded.weights.tobytes() == loops.best.weights.tobytes()


def test_the_arithmetic_is_that_of_the_config(train_set, val_set, monkeypatch):
    taken: list[str] = []
    monkeypatch.setattr(arithmetic, "use", taken.append)
    native = minitrain.ModelConfig(**(vars(TINY_MODEL) | {"arithmetic": "native"}))
    minitrain.train(initial_state(native, TINY_TRAIN), train_set, val_set, native, TINY_TRAIN)
    assert taken == ["native"]


def test_the_model_of_the_pipeline_loads_and_scores_as_the_pipeline_does(ran):
    loaded = minitrain.load(ran / "models")
    test_set = read_dataset(ran / "data/batches", loaded.config).stores["test"]
    texts = [loaded.tokenizer.decode(sequence) for sequence in test_set.sequences()]
    sequences = minitrain.tokenize(texts, loaded.tokenizer)
    assert sequences.tokens.tobytes() == test_set.tokens.tobytes()
    measured = json.loads((ran / "plots/baseline-compare/metrics.json").read_text())["test_ppl"]
    assert minitrain.perplexity(minitrain.score(loaded.weights, sequences, loaded.config)) == pytest.approx(
        measured, rel=1e-5
    )


BAD_SEQUENCES = {
    "none": ([], "expected some, of 2 to 10 tokens (context + 1) each, got 0 of 0 to 0."),
    "too short": ([[1, 5, 2], [1]], "got 2 of 1 to 3."),
    "too long": ([[1, *[5] * 9, 2]], "got 1 of 11 to 11."),
    "padding": ([[1, 0, 2]], "expected ids from 1 to 15 (vocab_size - 1; 0 is padding), got 0 to 2."),
    "an unknown id": ([[1, 16, 2]], "got 1 to 16."),
}


@pytest.mark.parametrize("name", BAD_SEQUENCES)
def test_sequences_that_do_not_fit_the_model_are_refused(name):
    sequences, message = BAD_SEQUENCES[name]
    store, state = minitrain.token_store(sequences), initial_state(TINY_MODEL, TINY_TRAIN)
    with pytest.raises(minitrain.UserError, match=re.escape(message)):
        minitrain.score(state.model.weights, store, TINY_MODEL)
    with pytest.raises(minitrain.UserError, match=re.escape(message)):
        minitrain.train(state, random_store(20, seed=1), store, TINY_MODEL, TINY_TRAIN)


def test_the_lines_of_the_readme_learn(root, tmp_path):
    (code,) = re.findall("```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    first, last, ppl = map(float, must_run(tmp_path, sys.executable, "-c", code, PYTHONPATH=str(root)).split())
    assert last < first / 3
    assert ppl < 2
