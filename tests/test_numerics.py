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


def supported() -> bool:
    return numerics.machine_is_supported()


def expected() -> dict:
    return numerics.PROMISED if supported() else numerics.fingerprint()


def test_a_fresh_process_computes_with_the_pinned_kernels(root):
    assert json.loads(start(FINGERPRINT, root).stdout) == expected()


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENBLAS_CORETYPE": "Sandybridge"},
        {"OPENBLAS_NUM_THREADS": "2"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V3"},
        {"NPY_ENABLE_CPU_FEATURES": "X86_V3"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_conflicting_environment_variables_are_overridden(root, environment):
    result = start(FINGERPRINT, root, **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == expected()


def test_numpy_imported_first_under_other_settings_is_refused(root):
    result = start("import numpy, minitrain", root, OPENBLAS_NUM_THREADS="2", OPENBLAS_CORETYPE="Sandybridge")
    if supported():
        assert result.returncode != 0
        assert "Import minitrain before NumPy" in result.stderr


def test_numpy_imported_first_under_the_same_settings_is_fine(root):
    assert start("import numpy, minitrain", root, **numerics.PINNED).returncode == 0


def test_without_the_pin_other_kernels_would_compute(root):
    """The negative control: the fingerprint does tell kernels apart."""
    code = FINGERPRINT.replace("from minitrain.base", "import sys; sys.path.append('minitrain/base');")
    result = start(code, root, OPENBLAS_CORETYPE="Sandybridge")
    assert json.loads(result.stdout) != expected()


def test_the_promised_versions_are_the_locked_ones(root):
    locked = re.search(r"^numpy==(\S+)", (root / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert locked is not None
    assert numerics.PROMISED["numpy"] == locked.group(1)
