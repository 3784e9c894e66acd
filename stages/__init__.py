"""The stages of dvc.yaml, one script each: ``python -m stages.NAME``, from the project's root.

All but the gate have one skeleton: a function that computes the stage's results and writes nothing (the gate
calls it again and compares); ``produce``, which knows paths and parameters and writes the files; and, once there
is a model, ``main``, which at last tells MLflow.
"""

import sys
from importlib.util import find_spec

# What the stages import. Looked up, not imported: some take seconds, and not every stage needs them.
# Only where a stage is what is started: then Python has no path yet. make bench imports from here with fewer packages.
NEEDED = ("matplotlib", "mlflow", "numpy", "packaging", "safetensors", "sqlalchemy", "threadpoolctl", "tqdm", "yaml")

missing = [name for name in NEEDED if find_spec(name) is None]
if missing and sys.argv[0] in ("-m", "-c"):
    sys.exit(
        f"error: missing from {sys.executable}: {', '.join(missing)}. "
        "Set the environment up with: make repro; then use it: source .venv/bin/activate"
    )

import minitrain  # noqa: E402, F401  (pins the numerics before any stage imports NumPy)
