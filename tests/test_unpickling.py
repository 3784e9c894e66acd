"""No pickle in any file of the project: a deny-list of imports, and the linter's rules for the rest."""

import json
from pathlib import Path

import pytest
from conftest import run_python

from minitrain.gate.checks import CODE_FOLDERS
from minitrain.gate.unpickling import unpickling


def test_no_project_file_can_unpickle(root):
    paths = [path for folder in CODE_FOLDERS for path in (root / folder).rglob("*.py")]
    assert len(paths) > 30
    assert [use for path in paths for use in unpickling(path)] == []


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


@pytest.mark.parametrize("code", UNPICKLES + DOES_NOT)
def test_what_could_unpickle_is_found_and_nothing_else(tmp_path, code):
    (tmp_path / "x.py").write_text(code)
    assert bool(unpickling(tmp_path / "x.py")) == (code in UNPICKLES)


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
    for number, code in enumerate(LINTED):
        (tmp_path / f"{number}.py").write_text(code)
    ruff = ["-m", "ruff", "check", "--no-cache", "--output-format", "json", "--config", str(root / "pyproject.toml")]
    found = {
        (Path(problem["filename"]).name, problem["code"]) for problem in json.loads(run_python(tmp_path, *ruff).stdout)
    }
    assert {(f"{number}.py", rule) for number, rule in enumerate(LINTED.values())} <= found
