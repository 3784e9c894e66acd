"""The settings of a command's process."""

import platform
import subprocess
import sys


def test_freed_memory_stays_with_the_process():
    """Fresh memory costs a page fault for every 4 KB; in a process of its own, as the setting is for good."""
    code = """
import resource, sys
import numpy as np
from minitrain.base.process import run_command
def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    before = page_faults()
    for _ in range(10):  # a step makes many arrays and drops them all
        arrays = [np.ones(1 << 17) for _ in range(50)]  # 1 MB each
        del arrays
    return page_faults() - before
fresh = work()
run_command(lambda: print(fresh, (work(), work())[1]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fresh, kept = map(int, result.stdout.split())
    if platform.libc_ver()[0] == "glibc":
        assert fresh > 50_000
        assert kept < 500
