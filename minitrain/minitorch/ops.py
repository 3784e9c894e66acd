"""The operations of a GPT with their gradients, fused to the size of a layer part.

Each is a pair of functions (see ``tape.Op``), joined in the table ``OPS`` at the end; a gradient check
in float64 runs over the whole table. Shapes: B sequences of T positions, of which N <= B*T are not
padding; C channels, H heads of D = C/H channels, V tokens. Names in front of a gradient follow one
rule: ``dx`` is the gradient of the loss with respect to ``x``.

Three habits make them fast. What an operation has made itself, it changes in place: memory that was
just written is in the cache. NumPy reduces a short last axis slowly: sums over it are matrix-vector
products, and a softmax lies with the axis to reduce in front. And what forward has computed is saved
for backward instead of computed again.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from minitrain.minitorch.tape import Op

LAYER_NORM_EPS = 1e-5
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715

Result = tuple[np.ndarray, tuple[Any, ...]]


def _row_means(x: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Means over the last axis of (N, C), or of (N, C) times ``weight`` (C,), as a column (N, 1)."""
    n_channels = x.shape[1]
    over = np.full(n_channels, 1 / n_channels, x.dtype) if weight is None else weight / n_channels
    means: np.ndarray = (x @ over)[:, None]
    return means


def _column_sums(x: np.ndarray) -> np.ndarray:
    """Sums over the first axis of (N, C): (C,)."""
    sums: np.ndarray = np.ones(len(x), x.dtype) @ x
    return sums


# --- embedding: rows of a table --------------------------------------------------------------------


def embedding_forward(weight: np.ndarray, tokens: np.ndarray) -> Result:
    """(V, C), token ids (N,) -> (N, C)."""
    return weight[tokens], (tokens, len(weight))


def embedding_backward(dout: np.ndarray, tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray]:
    # dweight[v] is the sum of the rows of dout at token v: a product with the one-hot matrix.
    one_hot = (tokens == np.arange(vocab_size)[:, None]).astype(dout.dtype)  # (V, N)
    return (one_hot @ dout,)


# --- linear: x @ weight.T + bias -------------------------------------------------------------------


def linear_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> Result:
    """(N, I), (O, I), optional (O,) -> (N, O)."""
    out = x @ weight.T
    if bias is not None:
        out += bias
    return out, (x, weight, bias is not None)


def linear_backward(dout: np.ndarray, x: np.ndarray, weight: np.ndarray, has_bias: bool) -> tuple[np.ndarray, ...]:
    dx, dweight = dout @ weight, dout.T @ x
    return (dx, dweight, _column_sums(dout)) if has_bias else (dx, dweight)


# --- layer norm (Ba et al. 2016) -------------------------------------------------------------------


def layer_norm_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Result:
    """(N, C), gain (C,), bias (C,) -> (N, C), each row normalised to mean 0 and variance 1 before the gain."""
    normed = x - _row_means(x)
    out = normed * normed
    variance = _row_means(out)
    inv_std = 1 / np.sqrt(variance + x.dtype.type(LAYER_NORM_EPS))  # (N, 1)
    normed *= inv_std
    np.multiply(normed, weight, out=out)
    out += bias
    return out, (normed, inv_std, weight)


def layer_norm_backward(
    dout: np.ndarray, normed: np.ndarray, inv_std: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, ...]:
    product = dout * normed
    dweight, dbias = _column_sums(product), _column_sums(dout)
    # With g = dout * weight: dx = inv_std * (g - mean(g) - normed * mean(g * normed)).
    mean_g, mean_g_normed = _row_means(dout, weight), _row_means(product, weight)
    dx = dout * weight
    dx -= mean_g
    dx -= np.multiply(normed, mean_g_normed, out=product)
    dx *= inv_std
    return dx, dweight, dbias


# --- GELU, tanh form (Hendrycks & Gimpel 2016) -----------------------------------------------------


def gelu_forward(x: np.ndarray) -> Result:
    """x * s with s = (1 + tanh(z)) / 2 and z = sqrt(2/pi) * (x + 0.044715 x^3), elementwise."""
    square = x * x
    s = square * x.dtype.type(GELU_SCALE * GELU_CUBIC)
    s += x.dtype.type(GELU_SCALE)
    s *= x
    np.tanh(s, out=s)
    s += 1
    s *= x.dtype.type(0.5)
    return x * s, (x, square, s)


def gelu_backward(dout: np.ndarray, x: np.ndarray, square: np.ndarray, s: np.ndarray) -> tuple[np.ndarray]:
    # d(x s)/dx = s + x * s'; s' = 2 s (1 - s) z'; z' = sqrt(2/pi) * (1 + 3 * 0.044715 x^2).
    dx = square * x.dtype.type(6 * GELU_SCALE * GELU_CUBIC)
    dx += x.dtype.type(2 * GELU_SCALE)
    dx *= x
    dx *= 1 - s
    dx += 1
    dx *= s
    dx *= dout
    return (dx,)


# --- padding ---------------------------------------------------------------------------------------


class Padding(NamedTuple):
    """How N rows, one sequence after the other, lie in a rectangle of B sequences of T positions.

    All operations but attention work on the N rows, so that no time goes into padding.
    """

    shape: tuple[int, int]  # (B, T)
    real: np.ndarray  # (N,) where in the B*T positions each row lies
    pads: np.ndarray  # (B*T - N,) the positions that remain

    @classmethod
    def of(cls, real: np.ndarray) -> "Padding":
        """From a mask (B, T), False at pads."""
        B, T = real.shape
        return cls((B, T), np.flatnonzero(real), np.flatnonzero(~real))

    def add(self, x: np.ndarray) -> np.ndarray:
        """(N, C) -> (B, T, C), zero at pads."""
        B, T = self.shape
        out = np.empty((B * T, x.shape[1]), x.dtype)
        out[self.real] = x
        out[self.pads] = 0
        return out.reshape(B, T, -1)

    def remove(self, x: np.ndarray) -> np.ndarray:
        """(B, T, C) -> (N, C)."""
        B, T = self.shape
        rows: np.ndarray = x.reshape(B * T, -1)[self.real]
        return rows


def add_padding_forward(x: np.ndarray, padding: Padding) -> Result:
    """(N, C) -> (B, T, C), zero at pads."""
    return padding.add(x), (padding,)


def add_padding_backward(dout: np.ndarray, padding: Padding) -> tuple[np.ndarray]:
    return (padding.remove(dout),)


def remove_padding_forward(x: np.ndarray, padding: Padding) -> Result:
    """(B, T, C) -> (N, C)."""
    return padding.remove(x), (padding,)


def remove_padding_backward(dout: np.ndarray, padding: Padding) -> tuple[np.ndarray]:
    return (padding.add(dout),)


# --- rotary position embedding (Su et al. 2021) ----------------------------------------------------


def rope_rotations(
    n_positions: int, n_heads: int, head_size: int, base: float, dtype: np.typing.DTypeLike
) -> np.ndarray:
    """exp(i * t * base^(-2j/D)) for position t and pair j of every head, for q and then for k: complex (T, C) of the
    precision of ``dtype``. Those for q are divided by sqrt(D), which attention then need not do with every score.
    """
    angles = np.arange(n_positions)[:, None] * base ** (-np.arange(0, head_size, 2) / head_size)  # (T, D/2)
    of_a_head = np.cos(angles) + 1j * np.sin(angles)
    of_k = np.tile(of_a_head, n_heads)
    return np.hstack([of_k / math.sqrt(head_size), of_k]).astype(np.result_type(dtype, np.complex64))


def rope_forward(qkv: np.ndarray, rotations: np.ndarray) -> Result:
    """(B, T, 3C): each consecutive pair of q and k, read as a complex number, times its rotation."""
    return _rotate(qkv, rotations), (rotations,)


def rope_backward(dout: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray]:
    return (_rotate(dout, rotations.conj()),)  # the transpose of a turn turns back


def _rotate(qkv: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    out = np.empty_like(qkv)
    T, n_pairs = qkv.shape[1], rotations.shape[1]
    pairs, out_pairs = qkv.view(rotations.dtype), out.view(rotations.dtype)  # (B, T, 3C/2)
    np.multiply(pairs[:, :, :n_pairs], rotations[:T], out=out_pairs[:, :, :n_pairs])
    out_pairs[:, :, n_pairs:] = pairs[:, :, n_pairs:]  # v has no position
    return out


# --- causal self-attention (Vaswani et al. 2017) ---------------------------------------------------


def attention_forward(qkv: np.ndarray, mask: np.ndarray, n_heads: int, keep: np.ndarray | None = None) -> Result:
    """(B, T, 3C) -> (B, T, C): softmax(q k + mask) v, a head at a time; q is divided by sqrt(D) already.

    Scores lie (key, B, H, query), so that the softmax reduces over the first axis, in whole rows of
    B*H*T numbers. ``mask`` is added: 0, or -inf where a query must not see a key; broadcastable to that
    shape. ``keep`` multiplies the probabilities (dropout), same shape.
    """
    B, T, _ = qkv.shape
    heads = qkv.reshape(B, T, 3, n_heads, -1)
    q, k, v = (heads[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # each (B, H, T, D), not copied
    probs = np.empty((T, B, n_heads, T), qkv.dtype)
    np.matmul(k, q.swapaxes(2, 3), out=probs.transpose(1, 2, 0, 3))
    probs += mask
    probs -= probs.max(axis=0)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=0)
    dropped = probs if keep is None else probs * keep
    out = np.empty((B, T, *heads.shape[3:]), qkv.dtype)
    np.matmul(dropped.transpose(1, 2, 3, 0), v, out=out.transpose(0, 2, 1, 3))
    return out.reshape(B, T, -1), (q, k, v, probs, dropped, keep)


def attention_backward(
    dout: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    probs: np.ndarray,
    dropped: np.ndarray,
    keep: np.ndarray | None,
) -> tuple[np.ndarray]:
    B, H, T, D = q.shape
    dqkv = np.empty((B, T, 3, H, D), dout.dtype)
    dq, dk, dv = (dqkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    dout = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)  # (B, H, T, D)
    np.matmul(dropped.transpose(1, 2, 0, 3), dout, out=dv)
    dscores = np.empty_like(probs)  # (key, B, H, query)
    np.matmul(v, dout.swapaxes(2, 3), out=dscores.transpose(1, 2, 0, 3))
    if keep is not None:
        dscores *= keep
    # Softmax: dscores = probs * (dprobs - sum over keys of dprobs * probs).
    dscores -= (dscores * probs).sum(axis=0)
    dscores *= probs
    np.matmul(dscores.transpose(1, 2, 3, 0), k, out=dq)
    np.matmul(dscores.transpose(1, 2, 0, 3), q, out=dk)
    return (dqkv.reshape(B, T, -1),)


# --- dropout and residual --------------------------------------------------------------------------


def dropout_forward(x: np.ndarray, keep: np.ndarray) -> Result:
    """x * keep, where ``keep`` is 0 or 1 / (1 - p) (Srivastava et al. 2014); the caller draws it."""
    return x * keep, (keep,)


def dropout_backward(dout: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray]:
    return (dout * keep,)


def residual_forward(x: np.ndarray, branch: np.ndarray, keep: np.ndarray | None = None) -> Result:
    """x + branch * keep: the residual stream takes up a branch, with dropout on the branch."""
    if keep is None:
        return x + branch, (None,)
    out = branch * keep
    out += x
    return out, (keep,)


def residual_backward(dout: np.ndarray, keep: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    return dout, dout if keep is None else dout * keep


# --- cross entropy over a tied head ------------------------------------------------------------------


def tied_cross_entropy_forward(hidden: np.ndarray, weight: np.ndarray, targets: np.ndarray, n_targets: int) -> Result:
    """Sum of -log softmax(weight @ hidden)[target] over the rows, divided by ``n_targets``: shape (1,).

    (N, C), embedding (V, C), targets (N,). ``n_targets`` counts the targets of the whole batch, of which
    these rows may be one microshard. Logits lie (V, N), for the same reason as the scores of attention.
    """
    rows = np.arange(len(hidden))
    probs = weight @ hidden.T
    probs -= probs.max(axis=0)
    target_logits = probs[targets, rows]
    np.exp(probs, out=probs)
    total = probs.sum(axis=0)
    probs /= total
    loss = (np.log(total) - target_logits).sum() / n_targets
    return np.full(1, loss, hidden.dtype), (hidden, weight, targets, n_targets, probs)


def tied_cross_entropy_backward(
    dout: np.ndarray,
    hidden: np.ndarray,
    weight: np.ndarray,
    targets: np.ndarray,
    n_targets: int,
    probs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    scale = dout / hidden.dtype.type(n_targets)  # (1,)
    dlogits = probs * scale  # (V, N)
    dlogits[targets, np.arange(len(targets))] -= scale
    return dlogits.T @ weight, dlogits @ hidden


# --- the table ---------------------------------------------------------------------------------------

embedding = Op("embedding", embedding_forward, embedding_backward)
linear = Op("linear", linear_forward, linear_backward)
layer_norm = Op("layer_norm", layer_norm_forward, layer_norm_backward)
gelu = Op("gelu", gelu_forward, gelu_backward)
add_padding = Op("add_padding", add_padding_forward, add_padding_backward)
remove_padding = Op("remove_padding", remove_padding_forward, remove_padding_backward)
rope = Op("rope", rope_forward, rope_backward)
attention = Op("attention", attention_forward, attention_backward)
dropout = Op("dropout", dropout_forward, dropout_backward)
residual = Op("residual", residual_forward, residual_backward)
tied_cross_entropy = Op("tied_cross_entropy", tied_cross_entropy_forward, tied_cross_entropy_backward)

OPS = {
    op.name: op
    for op in (
        embedding,
        linear,
        layer_norm,
        gelu,
        add_padding,
        remove_padding,
        rope,
        attention,
        dropout,
        residual,
        tied_cross_entropy,
    )
}
