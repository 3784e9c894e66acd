"""The stages of dvc.yaml, one script each: ``python -m stages.NAME``, from the project's root.

All but the gate have one skeleton: a function that computes the stage's results and writes nothing (the gate
calls it again and compares); ``produce``, which knows paths and parameters and writes the files; and, once there
is a model, ``main``, which at last tells MLflow.
"""

import sys

try:
    import minitrain  # noqa: F401  (pins the numerics before any stage imports NumPy)
except ModuleNotFoundError as error:
    sys.exit(
        f"error: the package {error.name} is missing from {sys.executable}. "
        "Set the environment up with: make repro; then use it: source .venv/bin/activate"
    )
