"""The stages of dvc.yaml, one script each: ``python -m stages.NAME``, from the project's root.

All have one skeleton: a function without side effects that computes what the stage leaves, and
``main``, which knows paths and parameters, writes files, and at last tells MLflow.
"""

import minitrain  # noqa: F401  (pins the numerics before any stage imports NumPy)
