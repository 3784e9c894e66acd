"""What a benchmark says of the machine and asks of the system."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The processor's name and the number of cores that may be used."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].partition(': ')[2] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def peak_memory() -> int:
    """The most memory that this process has had, in bytes. (What wait4 tells of a child includes its parent's.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
