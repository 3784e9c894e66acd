"""The project's own code as data: the files that a stage of dvc.yaml declares, and their digest."""

from pathlib import Path

from minitrain.base import files, formats

PACKAGES = ("minitrain", "stages")


def declared_code(stage: str) -> list[Path]:
    """The Python files that a stage of ``dvc.yaml`` depends on, sorted; folders stand for all files in them."""
    pipeline = formats.read_yaml(Path("dvc.yaml"))
    code = [Path(dep) for dep in pipeline["stages"][stage]["deps"] if Path(dep).parts[0] in PACKAGES]
    return sorted({file for path in code for file in ([path] if path.is_file() else path.rglob("[!.]*.py"))})


def code_digest(stage: str) -> str:
    """sha256 over the names and contents of the code that a stage declares."""
    return files.sha256(
        "".join(f"{path.as_posix()} {files.sha256_file(path)}\n" for path in declared_code(stage)).encode()
    )
