"""Loaded by every Python that a run starts in ``proofs/kills.py``: writes down the ids of each batch, and, if told to,
kills the process right before the Nth operation of the writer in minitrain.files.
"""

import json
import os
import signal
from typing import Any

if os.environ.get("DVC_STAGE") == "train" or "LOG_BATCHES" in os.environ:
    import minitrain.files
    import minitrain.loop

    real_batch_ids = vars(minitrain.loop)["batch_ids"]

    def batch_ids(n: int, seed: int, epoch: int, position: int, batch_size: int) -> Any:
        result = real_batch_ids(n, seed, epoch, position, batch_size)
        line = json.dumps([epoch, position, result[0].tolist()]) + "\n"
        descriptor = os.open("batch-ids.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return result

    vars(minitrain.loop)["batch_ids"] = batch_ids

if "KILL_BEFORE" in os.environ:
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

    vars(minitrain.files)["os"] = KillingOs()
