"""minitrain: train a small GPT in nothing but NumPy, to the same bytes on every machine."""

import os

# One thread for the BLAS, if NumPy has not been imported before: the training has threads of its own, and with both it
# takes ten times as long. No bit depends on it.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")
