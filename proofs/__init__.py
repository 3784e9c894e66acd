"""The promises of docs/reproducibility.md, each with a program that shows it and a negative control that must fail.

``make help`` lists them. They take minutes, prove-lock more than an hour; the tests hold short forms
and controls.
"""

import minitrain  # noqa: F401  (one BLAS thread, before any proof imports NumPy)


def program(*stages: str) -> str:
    """Python that runs some stages, given as modules, but MLflow, which takes seconds and changes no output."""
    return f"""
import contextlib, types
import minitrain
minitrain.tracking = types.SimpleNamespace(
    log_run=None, try_to=lambda *_: None, failure_recorded=lambda *_: contextlib.nullcontext()
)
from minitrain.base.process import run_command
from stages import {", ".join(stages)}
for stage in ({", ".join(stages)},):
    run_command(stage.main)
"""
