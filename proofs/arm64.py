"""A Python for arm64 that QEMU runs on this machine: Debian's, with the locked packages from their arm64 wheels.

Needs ``apt-get`` and ``dpkg`` (Debian, Ubuntu), but not root: packages are downloaded and unpacked, not installed.
"""

import shutil
import sys
import zipfile
from pathlib import Path

from minitrain.base import UserError
from minitrain.gate import packages
from proofs.project import must_run

DEBS = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "libgfortran5", "zlib1g", "libexpat1", "libffi8", "libssl3", "liblzma5"),
    *("libbz2-1.0", "libsqlite3-0", "libuuid1", "libcrypt1"),
)
# What the stages import; but for MLflow, which the proofs leave out.
PACKAGES = (
    *("numpy", "safetensors", "ruamel-yaml", "tqdm", "packaging", "matplotlib", "contourpy", "cycler", "fonttools"),
    *("kiwisolver", "pillow", "pyparsing", "python-dateutil", "six", "pydantic", "pydantic-core", "annotated-types"),
    *("typing-extensions", "typing-inspection"),
)
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
# An apt that thinks it is on arm64 and has nothing installed. The sources of packages are the machine's own.
APT = """
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
Dir::State "{folder}/apt";
Dir::State::status "{folder}/apt/status";
Dir::Cache "{folder}/apt/cache";
"""


def python(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command that starts such a Python, made in ``folder`` if it is not there, and the environment it needs."""
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None or shutil.which("apt-get") is None:
        raise UserError("arm64 needs qemu-aarch64 and apt-get: on Debian or Ubuntu, apt-get install qemu-user")
    system, site = folder / "system", folder / "site"
    stand_in = site / "mlflow" / "__init__.py"  # the stages look whether it is there
    if not stand_in.exists():  # the last thing made
        _unpack_debs(folder, system)
        _unpack_wheels(folder, site)
        stand_in.parent.mkdir()
        stand_in.write_text("raise ImportError('the proofs run without MLflow')\n")
    command = [qemu, "-cpu", "neoverse-n1", "-L", str(system), str(system / "usr/bin/python3.11")]
    return command, {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}


def _unpack_debs(folder: Path, system: Path) -> None:
    for part in ("apt/lists/partial", "apt/cache/archives/partial", "debs"):
        (folder / part).mkdir(parents=True)
    (folder / "apt/status").touch()
    (folder / "apt/conf").write_text(APT.format(folder=folder))
    for arguments in (("update",), ("download", *DEBS)):
        must_run(folder / "debs", "apt-get", "-qq", "-c", str(folder / "apt/conf"), *arguments)
    for deb in sorted((folder / "debs").glob("*.deb")):
        must_run(folder, "dpkg", "-x", str(deb), str(system))


def _unpack_wheels(folder: Path, site: Path) -> None:
    wanted = [f"{package.name}{package.specifier}" for package in packages.locked(PYTHON) if package.name in PACKAGES]
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (17, 27, 28)]
    options = ["--only-binary=:all:", "--no-deps", "--python-version=3.11", f"--dest={folder / 'wheels'}", *platforms]
    must_run(folder, sys.executable, "-m", "pip", "download", "--quiet", *options, *wanted)
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(site)
