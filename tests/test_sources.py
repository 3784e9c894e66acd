"""The project's code as data: import closures, and no pickle anywhere."""

import ast
from pathlib import Path

import pytest

from minitrain import sources
from minitrain.errors import UserError


@pytest.fixture
def in_root(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.mark.usefixtures("in_root")
def test_no_project_file_pickles():
    paths = [
        path
        for folder in ("minitrain", "stages", "tests", "benchmarks", "proofs")
        for path in Path(folder).rglob("*.py")
    ]
    assert len(paths) > 30
    assert [f"{path}:{use}" for path in paths for use in sources.pickle_uses(path)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "from joblib.externals import x",
        "def f():\n    import dill",
        "import shelve, marshal",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('cloudpickle')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nflag = True\nnp.load('x', allow_pickle=flag)",
        "import numpy as anything\nanything.load('x')",
        "import numpy as np\nnp.save('x', a)",
        "import numpy as np\nnp.savez('x', a)",
        "from numpy import load",
        "frame.to_pickle('x')",
        "pandas.read_pickle('x')",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "from numpy.lib.npyio import load",
        "from six.moves import cPickle",
        "import yaml\nyaml.unsafe_load(text)",
        "exec('import pick' + 'le')",
        "yaml.load(t, Loader=yaml.UnsafeLoader)",
        "import yaml as y\ny.load(t, y.FullLoader)",
        "import yaml\nyaml.load(t)",
        "import yaml\nyaml.load(t, Loader=chosen)",
        "import yaml\nyaml.load_all(t, make_loader())",
        "import yaml\nclass Mine(yaml.Loader):\n    pass\nyaml.load(t, Loader=Mine)",
        "import yaml\nfrom elsewhere import Other\nclass Mine(Other):\n    pass\nyaml.load(t, Loader=Mine)",
        "import yaml\nyaml.Loader(t).get_data()",
        "import yaml\nclass Mine(yaml.Loader):\n    pass\nMine(t).get_data()",
        "from yaml import load as l\nl(t, Loader=L)",
        "from yaml import UnsafeLoader as SafeLoader",
        "SafeLoader = yaml.UnsafeLoader\nyaml.load(t, Loader=SafeLoader)",
        "from yaml import unsafe_load as u",
        "from pandas import read_pickle as r",
        "from numpy import *",
        "np.lib.npyio.load('x')",
        "np.lib.format.write_array(f, a)",
        "np.lib.format.read_array(f, True)",
        "import numpy.lib.npyio as n\nn.load('x')",
        "from numpy.lib import npyio as n\nn.load('x')",
        "def f():\n    import numpy as x\n    x.load('x')\ndef g():\n    import json as x",
        "torch.load('x')",
        "import torch as t\nt.save(x, 'x')",
        "from importlib import import_module as i\ni('pickle')",
        "import importlib as i\ni.import_module(name='six.moves.cPickle')",
        "from builtins import eval as e",
    ],
)
def test_what_could_unpickle_is_found(tmp_path, code):
    (tmp_path / "x.py").write_text(code)
    assert sources.pickle_uses(tmp_path / "x.py")


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import json\njson.load(f)",
        "text = 'import pickle'  # pickle",
        "checkpoint.save('x')",
        "import numpy as np\nnp.lib.npyio.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load(t)\nyaml.load(t, Loader=yaml.SafeLoader)\nyaml.load(t, yaml.CSafeLoader)",
        "from yaml import SafeLoader as S, load as l\nclass Strict(S):\n    pass\nl(t, Loader=Strict)",
        "from importlib import import_module as i\ni('stages.train')",
    ],
)
def test_what_cannot_is_not(tmp_path, code):
    (tmp_path / "x.py").write_text(code)
    assert sources.pickle_uses(tmp_path / "x.py") == []


@pytest.mark.usefixtures("in_root")
def test_the_closure_follows_imports_inside_functions_and_packages():
    closure = {path.as_posix() for path in sources.import_closure(Path("stages/train.py"))}
    assert {"stages/train.py", "stages/__init__.py", "minitrain/__init__.py", "minitrain/numerics.py"} <= closure
    assert {"minitrain/minitorch/ops.py", "minitrain/minitorch/__init__.py", "minitrain/loop.py"} <= closure
    assert {"minitrain/figures.py", "minitrain/tracking.py"} <= closure  # imported when needed
    assert not closure & {"minitrain/corpus.py", "minitrain/ngram.py", "stages/verify.py"}


@pytest.mark.usefixtures("in_root")
def test_imports_only_go_down():
    """The floors: a module may import its own floor and those below, never one above."""
    floors = [
        {"errors", "numerics", "files"},
        {"minitorch"},
        {
            "params",
            "conjugation",
            "corpus",
            "split",
            "tokenizer",
            "sequences",
            "cells",
            "batches",
            "model",
            "ngram",
            "precision",
        },
        {"loop", "checkpoint", "manifest", "sources"},
        {"tracking", "figures", "report"},
    ]
    floor_of = {module: index for index, modules in enumerate(floors) for module in modules}
    present = {path.stem if path.is_file() else path.name for path in Path("minitrain").iterdir()}
    assert present - {"__init__", "__pycache__"} == set(floor_of)
    for path in Path("minitrain").rglob("*.py"):
        if path == Path("minitrain/__init__.py"):
            continue
        module = path.parts[1].removesuffix(".py")
        for other in sources.import_closure(path):
            if other.parts[0] == "minitrain" and other != Path("minitrain/__init__.py"):
                assert floor_of[other.parts[1].removesuffix(".py")] <= floor_of[module], f"{path} imports {other}"


@pytest.mark.usefixtures("in_root")
def test_the_engine_knows_nothing_of_texts_files_or_models():
    for path in Path("minitrain/minitorch").glob("*.py"):
        closure = {other.as_posix() for other in sources.import_closure(path)}
        assert all(
            name.startswith("minitrain/minitorch/") or name in {"minitrain/__init__.py", "minitrain/numerics.py"}
            for name in closure
        ), path


@pytest.mark.usefixtures("in_root")
def test_every_file_is_written_by_the_one_writer():
    """Nothing but minitrain.files opens a file for writing, renames or saves one."""
    writing = {
        "write_text",
        "write_bytes",
        "savefig",
        "save",
        "save_file",
        "replace",
        "rename",
        "open",
        "dump",
        "mkdir",
        "touch",
        "tofile",
        "unlink",
        "copy2",
        "copyfile",
        "copytree",
        "move",
    }
    for folder in ("minitrain", "stages"):
        for path in Path(folder).rglob("*.py"):
            if path == Path("minitrain/files.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    function = node.func
                    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
                    if name in writing and owner != "files":
                        # str.replace, figures drawn into memory, and nowhere, are no files
                        assert (
                            (name == "replace" and len(node.args) == 2 and owner != "os")
                            or (name == "savefig" and path.name == "figures.py")
                            or (name == "open" and ast.unparse(node.args[0]) == "os.devnull")
                        ), f"{path}:{node.lineno}"


def test_a_relative_import_is_refused_rather_than_missed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stages").mkdir()
    Path("stages/s.py").write_text("from . import other")
    with pytest.raises(UserError, match="relative import"):
        sources.import_closure(Path("stages/s.py"))


def test_the_digest_changes_with_any_file_of_the_closure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stages").mkdir()
    Path("minitrain").mkdir()
    Path("minitrain/a.py").write_text("x = 1")
    Path("minitrain/other.py").write_text("x = 1")
    Path("stages/s.py").write_text("from minitrain import a")
    first = sources.code_digest(Path("stages/s.py"))
    Path("minitrain/other.py").write_text("x = 2")
    assert sources.code_digest(Path("stages/s.py")) == first
    Path("minitrain/a.py").write_text("x = 2")
    assert sources.code_digest(Path("stages/s.py")) != first
