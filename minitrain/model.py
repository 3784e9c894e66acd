"""MiniGPT: a Pre-LN decoder with RoPE, tanh-GELU and a head tied to the embedding.

Locked config: d_model 64, 4 heads, 2 layers, d_ff 256, vocabulary 64, context 32: 103,680 parameters.
Names and layout of the parameters load into PyTorch as they are. Shapes: B sequences of T positions, of
which N are not padding; C = d_model, H heads. Only attention sees the rectangle (B, T); everything else
works on the N rows alone.
"""

import math
from dataclasses import dataclass

import numpy as np

from minitrain.batches import Microshard, TokenStore, pad
from minitrain.minitorch import nn, ops
from minitrain.minitorch.tape import Parameter, Tape, Tensor
from minitrain.params import ModelParams
from minitrain.tokenizer import PAD

ROPE_BASE = 10000.0
INIT_STD = 0.02  # of the embedding


@dataclass(frozen=True)
class Rows:
    """What attention must know of the N rows it is given."""

    padding: ops.Padding  # which sequence and position each of them is
    mask: np.ndarray  # (key, B, 1, query), see attention_mask
    rotations: np.ndarray  # see ops.rope_rotations


@dataclass(frozen=True)
class Keep:
    """What dropout leaves of the activations in one block; None where it drops nothing."""

    attention: np.ndarray | None = None  # (key, B, H, query)
    after_attention: np.ndarray | None = None  # (N, C)
    after_ffn: np.ndarray | None = None  # (N, C)


@dataclass(frozen=True)
class Dropout:
    """The probability of dropping a number, at each of the three places, and where the chance comes from."""

    embed: float
    residual: float
    attention: float
    rng: np.random.Generator

    def of_blocks(
        self, n_blocks: int, attention: tuple[int, ...], residual: tuple[int, ...], dtype: np.dtype
    ) -> list[Keep]:
        """For every block, given the shapes of its attention and of its residual stream; drawn in two calls."""
        attentions = self.keep(self.attention, (n_blocks, *attention), dtype)
        residuals = self.keep(self.residual, (n_blocks, 2, *residual), dtype)
        return [
            Keep(
                None if attentions is None else attentions[block],
                *((None, None) if residuals is None else residuals[block]),
            )
            for block in range(n_blocks)
        ]

    def keep(self, p: float, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        """0 with probability p, else 1 / (1 - p); None when nothing is dropped."""
        if p == 0:
            return None
        # 16 random bits decide the fate of a number: one draw serves four of them, and p is met to within 1 / 2^17.
        size = math.prod(shape)
        bits = self.rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size].reshape(shape)
        keep: np.ndarray = (bits >= round(p * 2**16)) * dtype.type(1 / (1 - p))
        return keep


class Attention(nn.Module):
    """Causal self-attention of all heads; no biases."""

    def __init__(self, config: ModelParams) -> None:
        C = config.d_model
        self.q = nn.Linear(C, C, bias=False)
        self.k = nn.Linear(C, C, bias=False)
        self.v = nn.Linear(C, C, bias=False)
        self.o = nn.Linear(C, C, bias=False)
        self._qkv = Parameter(3 * C, C)  # q, k and v at once
        self._n_heads = config.n_heads

    def bind(self, weights: np.ndarray, grads: np.ndarray) -> None:
        super().bind(weights, grads)
        # q, k and v lie side by side in the flat vector, so one matrix product serves all three.
        self._qkv.bind(weights[: self._qkv.size], grads[: self._qkv.size])

    def __call__(self, tape: Tape, x: Tensor, rows: Rows, keep: np.ndarray | None) -> Tensor:
        qkv = ops.linear(tape, x, self._qkv)  # (N, 3C)
        qkv = ops.add_padding(tape, qkv, padding=rows.padding)  # (B, T, 3C)
        qkv = ops.rope(tape, qkv, rotations=rows.rotations)
        heads = ops.attention(tape, qkv, mask=rows.mask, n_heads=self._n_heads, keep=keep)  # (B, T, C)
        return self.o(tape, ops.remove_padding(tape, heads, padding=rows.padding))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: ModelParams) -> None:
        self.up = nn.Linear(config.d_model, config.d_ff, bias=True)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=True)

    def __call__(self, tape: Tape, x: Tensor) -> Tensor:
        return self.down(tape, ops.gelu(tape, self.up(tape, x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelParams) -> None:
        self.ln1 = nn.LayerNorm(config.d_model)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config)

    def __call__(self, tape: Tape, x: Tensor, rows: Rows, keep: Keep) -> Tensor:
        x = ops.residual(tape, x, self.attn(tape, self.ln1(tape, x), rows, keep.attention), keep=keep.after_attention)
        return ops.residual(tape, x, self.ffn(tape, self.ln2(tape, x)), keep=keep.after_ffn)


class MiniGPT(nn.Module):
    """The model. It owns no numbers: ``bind`` gives it a flat vector of ``size`` weights and one for gradients."""

    def __init__(self, config: ModelParams, vocab_size: int) -> None:
        self.embed = nn.Embedding(vocab_size, config.d_model)
        self.blocks = [Block(config) for _ in range(config.n_layers)]
        self.ln_final = nn.LayerNorm(config.d_model)
        self._config = config
        V, C, F, L = vocab_size, config.d_model, config.d_ff, config.n_layers
        assert self.size == V * C + L * (4 * C**2 + 2 * C * F + F + C + 4 * C) + 2 * C

    def bind(self, weights: np.ndarray, grads: np.ndarray) -> None:
        super().bind(weights, grads)
        head_size = self._config.d_model // self._config.n_heads
        self._rotations = ops.rope_rotations(
            self._config.context, self._config.n_heads, head_size, ROPE_BASE, weights.dtype
        )

    def hidden(
        self, tape: Tape, tokens: np.ndarray, dropout: Dropout | None = None, taps: dict[str, np.ndarray] | None = None
    ) -> Tensor:
        """Tokens (B, T) -> the final LayerNorm's output at those that are not PAD, sequence after sequence: (N, C).

        Pads may only follow a sequence. ``taps``, if given, collects the activations by name.
        """
        taps = {} if taps is None else taps
        real = tokens != PAD
        x = self.embed(tape, tokens[real])
        keep = dropout.keep(dropout.embed, x.data.shape, x.data.dtype) if dropout else None
        if keep is not None:
            x = ops.dropout(tape, x, keep=keep)
        taps["embed_out"] = x.data
        rows = Rows(ops.Padding.of(real), attention_mask(tokens, x.data.dtype), self._rotations)
        B, T = tokens.shape
        scores_shape = (T, B, self._config.n_heads, T)
        keeps = [Keep()] * len(self.blocks)
        if dropout:
            keeps = dropout.of_blocks(len(self.blocks), scores_shape, x.data.shape, x.data.dtype)
        for index, block in enumerate(self.blocks):
            x = block(tape, x, rows, keeps[index])
            taps[f"block_{index}_out"] = x.data
        x = self.ln_final(tape, x)
        taps["final_ln_out"] = x.data
        return x

    def loss(self, tape: Tape, shard: Microshard, n_targets: int, dropout: Dropout | None = None) -> Tensor:
        """This microshard's part of the mean cross entropy over the ``n_targets`` real targets of its batch, in
        nats: (1,).
        """
        hidden = self.hidden(tape, shard.tokens, dropout)
        targets = shard.targets[shard.loss_mask]  # (N,)
        return ops.tied_cross_entropy(tape, hidden, self.embed.weight, targets=targets, n_targets=n_targets)

    def logits(self, tape: Tape, tokens: np.ndarray, taps: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Tokens (B, T) -> (N, V), without dropout; rows and ``taps`` as of ``hidden``."""
        logits: np.ndarray = ops.linear(tape, self.hidden(tape, tokens, taps=taps), self.embed.weight).data
        if taps is not None:
            taps["logits"] = logits
        return logits


def attention_mask(tokens: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(B, T) -> (key, B, 1, query): 0 where the query may see the key, -inf for a later key or a pad."""
    T = tokens.shape[1]
    causal = np.arange(T)[:, None] <= np.arange(T)  # (key, query)
    visible = causal[:, None] & (tokens != PAD).T[:, :, None]  # (key, B, query)
    mask: np.ndarray = np.where(visible, dtype.type(0), dtype.type(-np.inf))
    return mask[:, :, None]


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
        view[:] = std * rng.standard_normal(view.shape)
    return weights


def token_nll(model: MiniGPT, store: TokenStore, tape: Tape, batch_size: int = 32) -> np.ndarray:
    """-log p of every target of a store, in nats, float64, in the order of its tokens (``<bos>`` is no target).

    Runs without dropout; ``tape`` must not record, and lends its rounding.
    """
    parts = []
    for start in range(0, len(store), batch_size):
        shard = pad(store, np.arange(start, min(start + batch_size, len(store))))
        logits = model.logits(tape, shard.tokens).astype(np.float64)  # (N, V)
        logits -= logits.max(axis=1, keepdims=True)
        target_logits = logits[np.arange(len(logits)), shard.targets[shard.loss_mask]]
        parts.append(np.log(np.exp(logits).sum(axis=1)) - target_logits)
    return np.concatenate(parts)
