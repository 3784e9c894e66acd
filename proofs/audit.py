"""``make audit``: does the commit, in a clean clone and an environment of its own, make the very files that are here?

The gate recomputes what the stages left with the code and the packages that are here, and believes the first three
quarters of the training. This runs everything again from nothing: the commit is cloned into an empty folder, ``make
repro`` runs there, and ``dvc.lock`` and every file of every output that it names are compared with those here.

It takes only the standard library and runs as ``python -IS``: no module of the project's folder and no installed
package, which may have been tampered with, comes in. The arguments are the command that runs in the clone.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = "dvc.lock"
# What a run leaves and a next run would use. None of it may come from the commit: everything is made from nothing.
LEFT = (LOCK, ".dvc", ".venv", "checkpoints", "data/batches", "models", "plots")
CONFIG = "[core]\n    analytics = false\n[cache]\n    type = copy\n"  # of DVC
# Settings of the user's shell that would reach the run: caches, stores and modules from elsewhere.
FOREIGN = ("DVC_", "GIT_", "MAKE", "MFLAGS", "MLFLOW_", "PYTHON", "VIRTUAL_ENV")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def git(folder: Path, *arguments: str) -> list[str]:
    """What git prints, as the names between NULs that ``-z`` gives."""
    result = subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        sys.exit(f"error: audit: git {arguments[0]} failed in {folder}, see above")
    return [name for name in os.fsdecode(result.stdout).strip("\n").split("\0") if name]


def content(path: Path) -> bytes | None:
    """The bytes of a regular file; None for what is not there, a link, or anything else."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def uncommitted(project: Path, clone: Path) -> list[str]:
    """Committed files that are others here, and modules here, in the root or a package, that the commit has not.

    Git's own list would not do: it leaves out what is marked as unchanged or to be ignored.
    """
    committed = git(clone, "ls-files", "-z")
    changed = [name for name in committed if content(project / name) != content(clone / name)]
    extra = sorted(set(git(project, "ls-files", "-z", "--cached", "--others")) - set(committed))
    modules = [name for name in extra if name.endswith((".py", ".pyc", ".so"))]
    return changed + [name for name in modules if not re.search(r"(^|/)(\.|__pycache__/)", name)]


def run_from_nothing(clone: Path, command: list[str]) -> bool:
    """Run ``command`` in the clone, without an earlier run and the user's settings; whether it ended well."""
    for path in [*map(clone.joinpath, LEFT), *clone.rglob("__pycache__")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # Settings of our own: DVC must find no results in a cache that the commit has or names.
    (clone / ".dvc").mkdir()
    (clone / ".dvc" / "config").write_text(CONFIG)
    apart = {f"DVC_{name}": f"{clone}.dvc" for name in ("GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR", "SITE_CACHE_DIR")}
    return subprocess.run(command, cwd=clone, env=ENVIRONMENT | apart, check=False).returncode == 0


def outputs(project: Path) -> list[str]:
    """The files and folders that a project's ``dvc.lock`` names as outputs."""
    lock = (project / LOCK).read_text() if (project / LOCK).exists() else ""
    sections = re.findall(r"^    outs:\n((?:    [- ] .*\n?)*)", lock, flags=re.MULTILINE)
    return [name for section in sections for name in re.findall(r"^    - path: (.*)$", section, flags=re.MULTILINE)]


def different(project: Path, clone: Path) -> list[str]:
    """``dvc.lock``, and the files of the outputs that the clone's names, which are missing or not the same bytes."""
    names = {LOCK, *outputs(clone)}
    for root in (project, clone):
        names |= {str(path.relative_to(root)) for name in names for path in (root / name).rglob("*")}
    files = [name for name in sorted(names) if not ((project / name).is_dir() and (clone / name).is_dir())]
    return [
        name for name in files if content(project / name) is None or content(project / name) != content(clone / name)
    ]


def main(command: list[str]) -> str | None:
    """The audit of the working folder; returns the error, if something differs."""
    project = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary).resolve() / "clone"
        git(project, "clone", "--quiet", "--no-local", str(project), str(clone))
        (commit,) = git(clone, "rev-parse", "--short", "HEAD")
        not_committed = ", ".join(map(repr, uncommitted(project, clone)))
        failed = [] if run_from_nothing(clone, command) else [f"{' '.join(command)} (failed, see above)"]
        wrong, count = ", ".join(failed + list(map(repr, different(project, clone)))), len(outputs(clone))
    if not_committed:
        print(f"note: what is here is not commit {commit}: {not_committed}")
    if wrong:
        return f"error: audit: a clean clone of commit {commit} does not make what is here: {wrong}"
    print(f"audit: a clean clone of commit {commit} makes the same {LOCK} and the same {count} outputs")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
