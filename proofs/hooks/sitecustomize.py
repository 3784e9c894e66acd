"""Loaded by every Python that a run starts in ``proofs/kills.py``: writes down the ids of each batch, and, if told to,
kills the process right before the Nth operation of the writer in minitrain.base.files.
"""

import json
import os
import signal
from typing import Any

if os.environ.get("DVC_STAGE") == "train" or "LOG_BATCHES" in os.environ:
    from minitrain.dataset.batches import DataIterator

    real_next_ids = DataIterator.next_ids

    def next_ids(self: DataIterator, n: int, batch_size: int) -> Any:
        epoch, position = self.epoch, self.position
        ids = real_next_ids(self, n, batch_size)
        line = json.dumps([epoch, position, ids.tolist()]) + "\n"
        descriptor = os.open("batch-ids.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return ids

    DataIterator.next_ids = next_ids  # type: ignore[method-assign]

if "KILL_BEFORE" in os.environ:
    import minitrain.base.files

    left = int(os.environ["KILL_BEFORE"])

    class KillingOs:
        """Stands in for the module ``os``."""

        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            if name not in ("open", "write", "fsync", "close", "replace", "unlink"):
                return real

            def operation(*args: Any) -> Any:
                global left
                left -= 1
                if left == 0:
                    if name == "write":  # half of it gets out
                        os.write(args[0], args[1][: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args)

            return operation

    vars(minitrain.base.files)["os"] = KillingOs()
