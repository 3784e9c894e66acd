"""What a benchmark says of the machine and of the code, and asks of the system."""

import os
import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """The processor's name and the number of cores that may be used."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].partition(': ')[2] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """The commit that is measured, marked if code or parameters are not as it has them."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py", "params.yaml"], check=False).returncode
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    return f"`{head.strip()}`{', changed' if changed else ''}"


def peak_memory() -> int:
    """The most memory that this process has had, in bytes. (What wait4 tells of a child includes its parent's.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
