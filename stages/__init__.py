"""The stages of dvc.yaml, one script each: ``python -m stages.NAME``, from the project's root.

All have one skeleton: a function without side effects that computes the stage's results (the gate calls
it again and compares); ``produce``, which knows paths and parameters and writes the files; and ``main``,
which at last tells MLflow.
"""

import minitrain  # noqa: F401  (pins the numerics before any stage imports NumPy)
