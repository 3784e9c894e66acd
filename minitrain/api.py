"""The library: what ``import minitrain`` offers to scripts and notebooks. It needs no DVC, MLflow or params.yaml.

Most names are the pipeline's own. The functions here check what the caller gives, as the pipeline does when it reads
its files; they raise UserError.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minitrain import loop
from minitrain.base import UserError as UserError
from minitrain.base import files, layout, tensors
from minitrain.dataset.stores import TokenStore
from minitrain.dataset.tokenizer import PAD, Tokenizer
from minitrain.dataset.tokenizer import train_tokenizer as train_tokenizer
from minitrain.loop import CheckpointDue as CheckpointDue
from minitrain.loop import Evaluation as Evaluation
from minitrain.loop import Step as Step
from minitrain.minitorch import arithmetic
from minitrain.minitorch.tape import Tape as Tape
from minitrain.model import MiniGPT as MiniGPT
from minitrain.params import ModelConfig as ModelConfig
from minitrain.params import TrainConfig as TrainConfig
from minitrain.scoring import perplexity as perplexity
from minitrain.scoring import token_nll
from minitrain.training import checkpoint, export, manifest
from minitrain.training.state import TrainState
from minitrain.training.state import initial_state as initial_state


def token_store(sequences: Iterable[Sequence[int] | np.ndarray]) -> TokenStore:
    """Sequences of token ids as ``train`` and ``score`` take them. Each should begin with ``<bos>`` (1) and end with
    ``<eos>`` (2); ``<pad>`` (0) is refused.
    """
    ids = [[int(i) for i in sequence] for sequence in sequences]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    n = len(ids)  # cell and direction are for the corpus of the pipeline
    return TokenStore(
        np.array([i for of in ids for i in of], np.uint16), offsets, np.zeros(n, np.int32), np.zeros(n, np.uint8)
    )


def tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> TokenStore:
    """Texts as token sequences; a character that the tokenizer does not know becomes ``<unk>``."""
    ids, offsets, _ = tokenizer.encode(texts)
    return token_store(np.split(ids, offsets[1:-1]))


def train(
    state: TrainState, train_set: TokenStore, val_set: TokenStore, model_config: ModelConfig, config: TrainConfig
) -> Iterator[loop.Event]:
    """``minitrain.loop.train``, with the arithmetic of the config, on sequences that were checked."""
    for sequences in (train_set, val_set):
        _check_fits(sequences, model_config)
    arithmetic.use(model_config.arithmetic)
    return loop.train(state, train_set, val_set, model_config, config)


def score(weights: np.ndarray, sequences: TokenStore, config: ModelConfig) -> np.ndarray:
    """-log p of every token but ``<bos>``, in nats, float64, in the order of the sequences. ``perplexity`` sums it up.

    ``weights`` are flat, float32 or float64: ``state.best.weights`` after training, or ``load(folder).weights``.
    """
    _check_fits(sequences, config)
    return token_nll(MiniGPT.with_weights(config, weights), sequences)


def _check_fits(sequences: TokenStore, config: ModelConfig) -> None:
    lengths, ids = sequences.lengths.tolist() or [0], sequences.tokens
    if min(lengths) < 2 or max(lengths) > config.context + 1:
        raise UserError(
            f"token sequences: expected some, of 2 to {config.context + 1} tokens (context + 1) each, got "
            f"{len(sequences)} of {min(lengths)} to {max(lengths)}."
        )
    if ids.min() <= PAD or ids.max() >= config.vocab_size:
        raise UserError(
            f"token sequences: expected ids from 1 to {config.vocab_size - 1} (vocab_size - 1; 0 is padding), got "
            f"{ids.min()} to {ids.max()}."
        )


def save_state(path: str | Path, state: TrainState) -> None:
    """Write all of a train state into one file, whole or not at all."""
    files.write_bytes(Path(path), tensors.encode_tensors(checkpoint.state_tensors(state)))


def load_state(path: str | Path, model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The state in a file of ``save_state``. Trained on with the same data and configs, it ends in the bits of a run
    that was never stopped.
    """
    return checkpoint.load_state(Path(path), model_config, config)


def save(folder: str | Path, state: TrainState, tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Write the best weights of a state, its tokenizer and the manifest into a folder, in place of an older model."""
    inputs = {"schema_version": manifest.SCHEMA_VERSION, "config": {"model": asdict(config)}}
    content = export.model_files(state, config, tokenizer, inputs, evidence={})
    for older in Path(folder).glob(f"{layout.MODEL_PREFIX}*"):
        files.remove(older)
    files.write_all(Path(folder), content)


def load(folder: str | Path) -> export.ExportedModel:
    """The model in a folder that ``save`` or the pipeline wrote: its ``config``, ``tokenizer`` and flat ``weights``."""
    return export.load_model(Path(folder))
