"""MiniGPT: a Pre-LN decoder with RoPE, tanh-GELU and a head tied to the embedding.

Locked config: d_model 64, 4 heads, 2 layers, d_ff 256, vocabulary 64, context 32: 103,680 parameters.
Names and layout of the parameters load into PyTorch as they are. Shapes: B sequences of T positions, of
which N are not padding; C = d_model, H heads. Only attention sees the rectangle (B, T); everything else
works on the N rows alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minitrain.dataset.batches import Microshard
from minitrain.dataset.tokenizer import PAD
from minitrain.minitorch import nn, ops, sequence_ops
from minitrain.minitorch.tape import Parameter, Tape, Tensor
from minitrain.params import ModelConfig

ROPE_BASE = 10000.0
INIT_STD = 0.02  # of the embedding


@dataclass(frozen=True)
class SequenceLayout:
    """What attention must know of the N rows it is given."""

    padding: sequence_ops.Padding  # the sequence and position of each row
    mask: np.ndarray  # (key, B, 1, query), see sequence_ops.attention_mask
    rotations: sequence_ops.Rotations


@dataclass(frozen=True)
class DropoutMasks:
    """The dropout masks of one block, 0 or 1 / (1 - p); None where nothing is dropped."""

    attention: np.ndarray | None = None  # (key, B, H, query)
    after_attention: np.ndarray | None = None  # (N, C)
    after_ffn: np.ndarray | None = None  # (N, C)


@dataclass(frozen=True)
class Dropout:
    """The probability of dropping a number, at each of the three places, and the generator that decides."""

    embed: float
    residual: float
    attention: float
    rng: np.random.Generator

    def block_masks(
        self, n_blocks: int, attention: tuple[int, ...], residual: tuple[int, ...], dtype: np.dtype
    ) -> list[DropoutMasks]:
        """For every block, given the shapes of its attention and of its residual stream; drawn in two calls."""
        attentions = self.mask(self.attention, (n_blocks, *attention), dtype)
        residuals = self.mask(self.residual, (n_blocks, 2, *residual), dtype)
        return [
            DropoutMasks(
                None if attentions is None else attentions[block],
                *((None, None) if residuals is None else residuals[block]),
            )
            for block in range(n_blocks)
        ]

    def mask(self, p: float, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        """0 with probability p, else 1 / (1 - p); None when nothing is dropped."""
        if p == 0:
            return None
        # 16 random bits decide about a number: one draw serves four of them, and p is met to within 1 / 2^17.
        # Plainly: self.rng.random(shape) >= p.
        size = math.prod(shape)
        bits = self.rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size].reshape(shape)
        return (bits >= round(p * 2**16)) * dtype.type(1 / (1 - p))


class Attention(nn.Module):
    """Causal self-attention of all heads; no biases."""

    def __init__(self, config: ModelConfig) -> None:
        C = config.d_model
        self.q = nn.Linear(C, C, bias=False)
        self.k = nn.Linear(C, C, bias=False)
        self.v = nn.Linear(C, C, bias=False)
        self.o = nn.Linear(C, C, bias=False)
        self._qkv = Parameter(3 * C, C)  # q, k and v at once
        self._n_heads = config.n_heads

    def bind(self, weights: np.ndarray, grads: np.ndarray | None) -> None:
        super().bind(weights, grads)
        # q, k and v are neighbours in the flat vector, so one matrix product serves all three.
        # Plainly: course/plain.py, attention.
        n = self._qkv.size
        self._qkv.bind(weights[:n], None if grads is None else grads[:n])

    def __call__(self, tape: Tape, x: Tensor, layout: SequenceLayout, dropout_mask: np.ndarray | None) -> Tensor:
        qkv = ops.linear(tape, x, self._qkv)  # (N, 3C)
        qkv = sequence_ops.add_padding(tape, qkv, padding=layout.padding)  # (B, T, 3C)
        qkv = sequence_ops.rope(tape, qkv, rotations=layout.rotations)
        heads = sequence_ops.attention(
            tape, qkv, mask=layout.mask, n_heads=self._n_heads, dropout_mask=dropout_mask
        )  # (B, T, C)
        return self.o(tape, sequence_ops.remove_padding(tape, heads, padding=layout.padding))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        self.up = nn.Linear(config.d_model, config.d_ff, bias=True)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=True)

    def __call__(self, tape: Tape, x: Tensor) -> Tensor:
        return self.down(tape, ops.gelu(tape, self.up(tape, x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        self.ln1 = nn.LayerNorm(config.d_model)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config)

    def __call__(self, tape: Tape, x: Tensor, layout: SequenceLayout, masks: DropoutMasks) -> Tensor:
        attended = self.attn(tape, self.ln1(tape, x), layout, masks.attention)
        x = ops.residual(tape, x, attended, dropout_mask=masks.after_attention)
        return ops.residual(tape, x, self.ffn(tape, self.ln2(tape, x)), dropout_mask=masks.after_ffn)


class MiniGPT(nn.Module):
    """The model. It owns no numbers: ``bind`` gives it a flat vector of ``size`` weights, and one for gradients."""

    def __init__(self, config: ModelConfig) -> None:
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = [Block(config) for _ in range(config.n_layers)]
        self.ln_final = nn.LayerNorm(config.d_model)
        self._config = config

    @classmethod
    def with_weights(cls, config: ModelConfig, weights: np.ndarray, grads: np.ndarray | None = None) -> "MiniGPT":
        """The model with a flat vector of weights, computing in their precision; ``grads`` only for training."""
        model = cls(config)
        model.bind(weights, grads)
        return model

    def bind(self, weights: np.ndarray, grads: np.ndarray | None) -> None:
        super().bind(weights, grads)
        n_heads, head_size = self._config.n_heads, self._config.d_model // self._config.n_heads
        self._rotations = sequence_ops.rope_rotations(
            self._config.context, n_heads, head_size, ROPE_BASE, weights.dtype
        )

    def layers(
        self, tape: Tape, tokens: np.ndarray, real: np.ndarray, dropout: Dropout | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """The output of each layer with its name, from the embedding to the final LayerNorm: (N, C) each.

        ``tokens`` are (B, T); ``real`` (B, T) is False at pads, which only follow a sequence. The N rows are the
        real positions, sequence after sequence.
        """
        x = self.embed(tape, tokens[real])
        dtype, B, T, H = x.data.dtype, *tokens.shape, self._config.n_heads
        embed_mask = dropout.mask(dropout.embed, x.data.shape, dtype) if dropout else None
        if embed_mask is not None:
            x = ops.dropout(tape, x, dropout_mask=embed_mask)
        yield "embed_out", x
        layout = SequenceLayout(
            sequence_ops.Padding.of(real), sequence_ops.attention_mask(real, dtype), self._rotations
        )
        masks = [DropoutMasks()] * len(self.blocks)
        if dropout:
            masks = dropout.block_masks(len(self.blocks), (T, B, H, T), x.data.shape, dtype)
        for index, block in enumerate(self.blocks):
            x = block(tape, x, layout, masks[index])
            yield f"block_{index}_out", x
        yield "final_ln_out", self.ln_final(tape, x)

    def loss(self, tape: Tape, shard: Microshard, n_targets: int, dropout: Dropout | None = None) -> Tensor:
        """This microshard's part of the mean cross entropy over the ``n_targets`` real targets of its batch, in
        nats: (1,).
        """
        *_, (_, hidden) = self.layers(tape, shard.tokens, shard.loss_mask, dropout)
        targets = shard.targets[shard.loss_mask]  # (N,)
        return ops.tied_cross_entropy(tape, hidden, self.embed.weight, targets=targets, n_targets=n_targets)

    def activations(self, tape: Tape, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Tokens (B, T) -> the output of each layer by name, (N, C), and at last the ``logits``, (N, V); no dropout."""
        outputs = dict(self.layers(tape, tokens, tokens != PAD))
        logits = ops.linear(tape, outputs["final_ln_out"], self.embed.weight)
        return {name: output.data for name, output in (outputs | {"logits": logits}).items()}

    def logits(self, tape: Tape, tokens: np.ndarray) -> np.ndarray:
        """Tokens (B, T) -> (N, V), without dropout, for the N tokens that are not PAD."""
        return self.activations(tape, tokens)["logits"]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that are nearly N(0, 1), float64: each the sum of twelve uniform ones, less 6 (Irwin & Hall). NumPy keeps
    the stream of a bit generator the same for ever, but not that of ``standard_normal``.
    """
    size = math.prod(shape)
    uniform = rng.bit_generator.random_raw(3 * size).view(np.uint16).reshape(12, size)
    return (uniform.sum(axis=0, dtype=np.int64).reshape(shape) - 6 * 65535) / 65536


def initial_weights(model: MiniGPT, rng: np.random.Generator) -> np.ndarray:
    """A flat float32 vector of fresh weights.

    The embedding is 0.02 * N(0, 1); matrices are N(0, 1/in_features), those that write to the residual
    stream divided by sqrt(2 * n_layers), so that the stream's variance does not grow with depth (Radford
    et al. 2019). Gains are 1, biases 0.
    """
    weights = np.zeros(model.size, dtype=np.float32)
    for name, view in model.views(weights).items():
        if view.ndim == 1:
            view[:] = 1.0 if name.split(".")[-2].startswith("ln") and name.endswith("weight") else 0.0
            continue
        std = INIT_STD if name == "embed.weight" else 1 / math.sqrt(view.shape[1])
        if name.endswith(("attn.o.weight", "ffn.down.weight")):
            std /= math.sqrt(2 * len(model.blocks))
        view[:] = std * normal(rng, view.shape)
    return weights
