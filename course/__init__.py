"""For learners: the plain twin of the model, classic bugs, and what breaks without each line. Texts: docs/course/."""

import minitrain  # noqa: F401  (one BLAS thread, before anything imports NumPy)
