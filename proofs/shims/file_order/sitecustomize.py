"""On PYTHONPATH for proofs/repeat.py: Python lists the files of a folder in another order. No system promises one."""

import os

listdir, scandir = os.listdir, os.scandir


class Reversed:
    """What os.scandir gives, the last entry first."""

    def __init__(self, path: str) -> None:
        self.entries = scandir(path)
        self.reversed = iter(list(self.entries)[::-1])

    def __iter__(self) -> object:
        return self.reversed

    def __next__(self) -> os.DirEntry:
        return next(self.reversed)

    def __enter__(self) -> "Reversed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.entries.close()


os.listdir = lambda path=".": listdir(path)[::-1]  # type: ignore[assignment]
os.scandir = lambda path=".": Reversed(path)  # type: ignore[assignment]
