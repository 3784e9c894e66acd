"""The bit policy holds however the code is started, and says so when it cannot."""

import json
import os
import re
import subprocess
import sys

import pytest

from minitrain.base import numerics


def start(code: str, root, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    for name in (*numerics.PINNED, "NPY_ENABLE_CPU_FEATURES"):
        if name not in environment:
            env.pop(name, None)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False
    )


FINGERPRINT = "import json; from minitrain.base import numerics; print(json.dumps(numerics.fingerprint()))"


SUPPORTED = numerics.machine_is_supported()
EXPECTED = numerics.PROMISED if SUPPORTED else numerics.fingerprint()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OPENBLAS_CORETYPE": "Sandybridge"},
        {"OPENBLAS_NUM_THREADS": "2"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V3"},
        {"NPY_ENABLE_CPU_FEATURES": "X86_V3"},
    ],
    ids=lambda environment: next(iter(environment), "nothing set"),
)
def test_a_process_computes_with_the_pinned_kernels_whatever_its_environment(root, environment):
    result = start(FINGERPRINT, root, **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == EXPECTED


def test_without_the_pin_other_kernels_would_compute(root):
    """The negative control: the fingerprint does tell kernels apart."""
    code = FINGERPRINT.replace("from minitrain.base", "import sys; sys.path.append('minitrain/base');")
    assert json.loads(start(code, root, OPENBLAS_CORETYPE="Sandybridge").stdout) != EXPECTED


def test_numpy_imported_first_under_other_settings_is_refused(root):
    result = start("import numpy, minitrain", root, OPENBLAS_NUM_THREADS="2", OPENBLAS_CORETYPE="Sandybridge")
    assert (result.returncode != 0) == SUPPORTED
    assert ("Import minitrain before NumPy" in result.stderr) == SUPPORTED


def test_numpy_imported_first_under_the_same_settings_is_fine(root):
    assert start("import numpy, minitrain", root, **numerics.PINNED).returncode == 0


def test_the_promised_versions_are_the_locked_ones(root):
    locked = re.search(r"^numpy==(\S+)", (root / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert locked is not None
    assert numerics.PROMISED["numpy"] == locked.group(1)
