"""The stages of dvc.yaml, one script each: ``python -m stages.NAME``, from the project's root.

Each reads, calls the library, writes. What it computes is a function of ``minitrain`` that writes nothing, so that
the gate can call it again and compare.
"""

import sys
from importlib.util import find_spec

# What the stages import. Looked up, not imported: some take seconds, and not every stage needs them.
NEEDED = (
    *("matplotlib", "mlflow", "numpy", "packaging"),
    *("pydantic", "ruamel", "safetensors", "tqdm"),
)

if missing := [name for name in NEEDED if find_spec(name) is None]:
    sys.exit(
        f"error: missing from {sys.executable}: {', '.join(missing)}. "
        "Set the environment up with: make repro; then use it: source .venv/bin/activate"
    )
