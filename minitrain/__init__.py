"""minitrain: train a small GPT in nothing but NumPy, to the same bytes on every machine.

Importing the package pins the numerics (see ``base.numerics``) before NumPy loads, so that every way to
start the code - a stage, a test, a notebook, ``python -c`` - computes the same bits.
"""

from minitrain.base import numerics

numerics.pin()
