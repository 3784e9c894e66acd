"""The bit policy: which machine code may compute, fixed before NumPy loads.

OpenBLAS and NumPy pick their kernels by the CPU they find, and different kernels round differently.
Three environment variables, read once when NumPy loads, make every x86-64 machine with AVX2 take
the same kernels:

* ``OPENBLAS_CORETYPE=Haswell``: the AVX2 matrix products, on newer cores too.
* ``OPENBLAS_NUM_THREADS=1``: a product is never split, so the number of cores cannot change a sum.
* ``NPY_DISABLE_CPU_FEATURES``: no AVX-512 loops (NumPy's float64 ``exp`` differs with them).

The values are set whatever the user's environment says. On another family of machines nothing is
pinned: the code runs, and ``fingerprint`` differs, by which everything downstream knows that bits
are not promised there.
"""

import hashlib
import math
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

PINNED = {
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}

# What `fingerprint` returns wherever equal bits are promised.
PROMISED = {
    "machine": "x86_64",
    "numpy": "2.4.6",
    "numpy_simd": ["X86_V3"],
    "openblas": "0.3.31.188.0",
    "openblas_core": "Haswell",
    "openblas_threads": 1,
    "libm": "8b77fae3eee0eefa",
}


def machine_is_supported() -> bool:
    """True on x86-64 with AVX2 and FMA, the family on which equal bits are promised."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():  # not Linux; x86-64 machines without AVX2 are older than 2013
        return True
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return {"avx2", "fma"} <= set(flags.split())


def pin() -> None:
    """Set the policy and import NumPy under it.

    Raises ImportError where NumPy was imported before, under other settings: its kernels are chosen
    by then and cannot be changed in this process.
    """
    if not machine_is_supported():
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the number of cores must not matter anywhere
        return
    numpy_was_first = "numpy" in sys.modules
    os.environ.update(PINNED)
    os.environ.pop("NPY_ENABLE_CPU_FEATURES", None)  # NumPy refuses to start when features are enabled and disabled
    with warnings.catch_warnings():
        # NumPy warns when a feature to disable is not there at all. That is as good as disabled.
        warnings.simplefilter("ignore", ImportWarning)
        import numpy  # noqa: F401
    if numpy_was_first:
        wrong = {
            k: v for k, v in fingerprint().items() if k.startswith(("openblas_", "numpy_simd")) and v != PROMISED[k]
        }
        if wrong:
            expected = {k: PROMISED[k] for k in wrong}
            raise ImportError(
                f"NumPy was imported before minitrain and runs with {wrong}, not with {expected}, so this process "
                "would compute other bits. Import minitrain before NumPy (or start a fresh process)."
            )


def fingerprint() -> dict[str, Any]:
    """What decides the bits of a result, as it is in force now; equal on all machines of the promise."""
    import numpy
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # type: ignore[import-not-found]
    from threadpoolctl import threadpool_info

    libraries: list[dict[str, Any]] = threadpool_info()
    blas = next((library for library in libraries if library["internal_api"] == "openblas"), {})
    return {
        "machine": "x86_64" if platform.machine().lower() in ("x86_64", "amd64") else platform.machine(),
        "numpy": numpy.__version__,
        "numpy_simd": [name for name in __cpu_dispatch__ if __cpu_features__[name]],
        "openblas": str(blas.get("version", "none")),
        "openblas_core": str(blas.get("architecture", "none")),
        "openblas_threads": int(blas.get("num_threads", 0)),
        "libm": _libm_digest(),
    }


def say_where_bits_are_not_promised() -> None:
    """Print a note where ``fingerprint`` is not that of the promise."""
    different = sorted(key for key, value in fingerprint().items() if PROMISED[key] != value)
    if different:
        print(f"note: equal bytes are not promised on this machine (its {', '.join(different)})")


def _libm_digest() -> str:
    """What the C library's float64 functions give on a fixed grid: without AVX-512, NumPy takes them from there."""
    import numpy

    x = numpy.linspace(-20.0, 20.0, 4001)
    values = [f(x) for f in (numpy.exp, numpy.sin, numpy.cos)] + [numpy.log(numpy.abs(x) + 0.5), 0.95 ** numpy.abs(x)]
    values.append(numpy.log1p(numpy.abs(x)))  # of which NumPy makes the tails of its normal distribution
    scalars = [math.exp(1.1), math.log(1.1), math.cos(1.1), 0.95**7]
    return hashlib.sha256(numpy.concatenate([*values, scalars]).tobytes()).hexdigest()[:16]
