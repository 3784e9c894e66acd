"""Loaded by every Python that ``proofs/kills.py`` starts. In the training stage it writes down the ids of each batch
and, where KILL_BEFORE is set, lets the process die right before that operation of the writer.
"""

import os
from typing import Any
from unittest import mock

if os.environ.get("DVC_STAGE") == "train":
    from minitrain.base import files
    from minitrain.dataset.batches import DataIterator
    from proofs.failing_os import FailingOs, sigkill

    real_next_ids = DataIterator.next_ids

    def next_ids(self: DataIterator, n: int, batch_size: int) -> Any:
        where = (self.epoch, self.position)
        ids = real_next_ids(self, n, batch_size)
        with open("batches.log", "a") as log:
            print(*where, *ids, file=log)
        return ids

    mock.patch.object(DataIterator, "next_ids", next_ids).start()
    if "KILL_BEFORE" in os.environ:
        mock.patch.object(files, "os", FailingOs(int(os.environ["KILL_BEFORE"]), sigkill)).start()
