"""docs/format.md, and a loader that follows it without minitrain. The one in PyTorch: make prove-library."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from conftest import OF_THE_PIPELINE, edit, run_without

import minitrain
from proofs.project import tree

LOADER = "load_in_numpy.py"


def test_the_numpy_loader_needs_no_minitrain_and_finds_the_recorded_numbers(root, ran, tmp_path):
    packages = ("minitrain", "pydantic", "ruamel", *OF_THE_PIPELINE)
    result = run_without(packages, root / "examples" / LOADER, ran, tmp_path / "hook")
    assert result.stderr == ""
    assert float(re.search(r"differ by at most (\S+)", result.stdout)[1]) < 1e-9


MISTAKES = {
    "eps": {"+ 1e-5)": "+ 1e-6)"},
    "GELU": {"0.044715": "0.04"},
    "half-split RoPE": {
        "x[..., 0::2], x[..., 1::2]": "x[..., : D // 2], x[..., D // 2 :]",
        "axis=-1).reshape": "-2).reshape",
    },
    "no scale": {" / np.sqrt(q.shape[2])": ""},
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_loader_with_a_mistake_is_red(root, ran, tmp_path, name):
    script = Path(shutil.copy(root / "examples" / LOADER, tmp_path))
    edit(script, MISTAKES[name])
    result = run_without(OF_THE_PIPELINE, script, ran, tmp_path / "hook")
    assert result.stderr == "error: this is not the model that was trained\n"


def test_the_numpy_loader_tokenizes_as_the_library_does(root, ran, monkeypatch):
    monkeypatch.chdir(ran)
    encode = runpy.run_path(str(root / "examples" / LOADER))["encode"]
    tokenizer = minitrain.load("models").tokenizer
    for text in ("", "en:you work / es:tú trabajas", "ñ e e e e  / en:en:", "yoyoyo you"):
        assert encode(text).tolist() == minitrain.tokenize([text], tokenizer).tokens.tolist()


def test_the_page_names_each_file_tensor_and_key(root, ran):
    page = (root / "docs/format.md").read_text()
    (path,) = (ran / "models").glob("*.manifest.json")
    manifest = json.loads(path.read_text())
    names = [name for name, _ in minitrain.load(ran / "models").model().named_parameters()]
    said = [f"`models/{name.replace(path.name.split('.')[0], '*')}`" for name in tree(ran / "models")]
    said += [f"`{key}`" for key in manifest]
    said += [f"| `{key}` | {value} |" for key, value in manifest["config"]["model"].items()]
    said += [f"of this page: {manifest['schema_version']} |"]
    said += [re.sub(r"\.\d+\.", ".i.", name).split(".attn.")[0].removesuffix(".bias") for name in names]
    assert [text for text in said if text not in page] == []
