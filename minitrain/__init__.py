"""minitrain: train a small GPT in nothing but NumPy, to the same bytes on every machine.

The library, for scripts and notebooks (minitrain.api has the functions, docs/format.md describes the files):

ModelConfig, TrainConfig                  the shape of the model, how it is trained
train_tokenizer, tokenize, token_store    from texts, or token ids of your own, to what is trained on
initial_state, train                      a loop over what happens:
Step, Evaluation, CheckpointDue           ... these
save_state, load_state                    stop, and go on to the same bits
save, load                                a trained model with its tokenizer, in a folder
score, perplexity                         how well it predicts
MiniGPT, Tape                             the model itself, and its gradients
UserError                                 what they raise for a mistake of the caller
"""

import importlib
import os
from typing import Any

# One thread for the BLAS, if NumPy has not been imported before: the training has threads of its own, and with both it
# takes ten times as long. No bit depends on it.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")

__all__ = [
    *("CheckpointDue", "Evaluation", "MiniGPT", "ModelConfig", "Step", "Tape", "TrainConfig", "UserError"),
    *("initial_state", "load", "load_state", "perplexity", "save", "save_state", "score", "token_store", "tokenize"),
    *("train", "train_tokenizer"),
]


def __getattr__(name: str) -> Any:
    """``minitrain.train`` is ``minitrain.api.train``. Imported when asked for: not every stage depends on all of it."""
    if name not in __all__:
        raise AttributeError(f"module 'minitrain' has no attribute {name!r}")
    return getattr(importlib.import_module("minitrain.api"), name)


def __dir__() -> list[str]:
    return __all__
