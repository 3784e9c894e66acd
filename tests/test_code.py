"""The project's code as data: who may write, what names a run's checkpoints, what unpickles.

Which file may import which: test_docs.py, by the picture of docs/architecture.md.
"""

import ast
import json
from pathlib import Path

import pytest
from conftest import run_python

from minitrain.base import code
from minitrain.gate.unpickling import unpickling


@pytest.fixture(autouse=True)
def in_root(root, monkeypatch):
    monkeypatch.chdir(root)


def test_no_file_is_longer_than_one_sitting():
    for path in [*Path("minitrain").rglob("*.py"), *Path("stages").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 300, path


def test_every_file_is_written_by_the_one_writer():
    """Nothing but minitrain.base.files opens a file for writing, renames or saves one."""
    writing = {
        *("write_text", "write_bytes", "savefig", "save", "save_file", "open", "dump", "tofile", "touch", "mkdir"),
        *("replace", "rename", "move", "unlink", "copy2", "copyfile", "copytree"),
    }
    for path in [*Path("minitrain").rglob("*.py"), *Path("stages").rglob("*.py")]:
        if path != Path("minitrain/base/files.py"):
            for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
                owner, _, name = ast.unparse(call.func).rpartition(".")
                assert (
                    name not in writing
                    or owner == "files"
                    or (name == "replace" and len(call.args) == 2 and owner != "os")  # of a text
                    or (name == "savefig" and path.name == "figures.py")  # into memory
                    or (name == "save" and owner == "safetensors.numpy")  # which gives bytes
                    or (name == "open" and ast.unparse(call.args[0]) == "os.devnull")
                ), f"{path}:{call.lineno}"


# --- the digest of the code ----------------------------------------------------------------------------


@pytest.fixture
def declaring(tmp_path, monkeypatch):
    """A folder whose stage declares a file, a folder and what is no code."""
    monkeypatch.chdir(tmp_path)
    Path("minitrain/room/inner").mkdir(parents=True)
    Path("dvc.yaml").write_text("stages: {train: {deps: [data, minitrain/room, minitrain/a.py, plots/x.csv]}}")
    for name in ("a.py", "other.py", "room/b.py", "room/c.txt", "room/inner/d.py"):
        Path("minitrain", name).write_text("x = 1")


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (lambda: Path("minitrain/a.py").write_text("x = 2"), True),
        (lambda: Path("minitrain/room/b.py").write_text("x = 2"), True),
        (lambda: Path("minitrain/room/inner/d.py").write_text("x = 2"), True),
        (lambda: Path("minitrain/room/d.py").write_text(""), True),
        (lambda: Path("minitrain/room/b.py").rename("minitrain/room/e.py"), True),
        (lambda: Path("minitrain/other.py").write_text("x = 2"), False),
        (lambda: Path("minitrain/room/c.txt").write_text("x = 2"), False),
    ],
)
def test_the_digest_changes_with_any_file_that_is_declared_and_no_other(declaring, change, matters):
    first = code.code_digest("train")
    change()
    assert (code.code_digest("train") != first) == matters


# --- what the gate and the linter take for unpickling; that no file does it, the gate says ------------------


UNPICKLES = [
    "import pickle",
    "import os, pickle as p",
    "from pickle import loads",
    "from joblib.externals import x",
    "def f():\n    import dill",
    "import shelve, marshal",
    "from six.moves import cPickle",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nflag = True\nnp.load('x', allow_pickle=flag)",
    "np.lib.format.read_array(f, allow_pickle=1)",
]
DOES_NOT = [
    "import numpy as np\nnp.load('x', allow_pickle=False)",
    "import json\njson.load(f)",
    "text = 'import pickle'  # pickle",
    "checkpoint.save('x')",
]


@pytest.mark.parametrize("text", UNPICKLES + DOES_NOT)
def test_what_could_unpickle_is_found_and_nothing_else(tmp_path, text):
    (tmp_path / "x.py").write_text(text)
    assert bool(unpickling(tmp_path / "x.py")) == (text in UNPICKLES)


LINTED = {
    "import pickle\n\npickle.loads(b'')\n": "S301",
    "import marshal\n\nmarshal.loads(b'')\n": "S302",
    "import shelve\n\nshelve.open('x')\n": "S301",
    "import dill\n\ndill.loads(b'')\n": "S301",
    "import pandas as pd\n\npd.read_pickle('x')\n": "S301",
    "import yaml\n\nyaml.load('x', Loader=yaml.UnsafeLoader)\n": "S506",
    "eval('1')\n": "S307",
    "exec('x')\n": "S102",
}


def test_the_linter_refuses_what_unpickles(root, tmp_path):
    for number, text in enumerate(LINTED):
        (tmp_path / f"{number}.py").write_text(text)
    ruff = ["-m", "ruff", "check", "--no-cache", "--output-format", "json", "--config", str(root / "pyproject.toml")]
    found = {
        (Path(problem["filename"]).name, problem["code"]) for problem in json.loads(run_python(tmp_path, *ruff).stdout)
    }
    assert {(f"{number}.py", rule) for number, rule in enumerate(LINTED.values())} <= found
