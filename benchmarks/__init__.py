"""Measurements that are not part of the pipeline: nothing here enters DVC, and the project imports none of it."""

import minitrain  # noqa: F401  (one BLAS thread, before any benchmark imports NumPy)
