"""Measurements that are not part of the pipeline: nothing here enters DVC, and the project imports none of it."""

import minitrain  # noqa: F401  (pins the numerics before any benchmark imports NumPy)
