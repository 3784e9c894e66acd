"""The promises of docs/reproducibility.md, each with a program that shows it and a negative control that must fail.

``make prove-cpus``, ``make prove-kills``, ``make prove-faults``, ``make prove-damage``. They take minutes; the tests
hold a short form of each.
"""

import minitrain  # noqa: F401  (pins the numerics before any proof imports NumPy)
