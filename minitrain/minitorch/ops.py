"""The operations of a GPT with their gradients, fused to the size of a layer part.

Each is a pair of functions (see ``tape.Op``), joined in the table ``OPS`` at the end; a gradient check
in float64 runs over the whole table. Shapes: B sequences, T positions, N = B*T rows, C channels, H
heads of D = C/H channels, V tokens. Names in front of a gradient follow one rule: ``dx`` is the
gradient of the loss with respect to ``x``.

Three habits make them fast. Results go into memory from the tape's arena (``out=empty(shape)``), never
into fresh arrays. Sums over the short last axis are matrix-vector products, since NumPy reduces short
rows slowly. And what forward has computed is saved for backward instead of computed again.
"""

import math
from typing import Any

import numpy as np

from minitrain.minitorch.tape import Empty, Op

LAYER_NORM_EPS = 1e-5
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715

Result = tuple[np.ndarray, tuple[Any, ...]]


def _row_sums(empty: Empty, x: np.ndarray) -> np.ndarray:
    """Sums over the last axis of (N, C), as a column (N, 1)."""
    return np.matmul(x, np.ones((x.shape[1], 1), x.dtype), out=empty((len(x), 1)))


def _column_sums(x: np.ndarray) -> np.ndarray:
    """Sums over the first axis of (N, C): (C,)."""
    sums: np.ndarray = np.ones(len(x), x.dtype) @ x
    return sums


# --- embedding: rows of a table --------------------------------------------------------------------


def embedding_forward(empty: Empty, weight: np.ndarray, tokens: np.ndarray) -> Result:
    """(V, C), token ids (N,) -> (N, C)."""
    # mode="clip" skips a buffered copy; ids are checked when a store is loaded.
    out = np.take(weight, tokens, axis=0, out=empty((len(tokens), weight.shape[1])), mode="clip")
    return out, (tokens, len(weight))


def embedding_backward(empty: Empty, dout: np.ndarray, tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray]:
    # dweight[v] is the sum of the rows of dout at token v: a product with the one-hot matrix.
    one_hot = (tokens == np.arange(vocab_size)[:, None]).astype(dout.dtype)  # (V, N)
    return (np.matmul(one_hot, dout, out=empty((vocab_size, dout.shape[1]))),)


# --- linear: x @ weight.T + bias -------------------------------------------------------------------


def linear_forward(empty: Empty, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> Result:
    """(N, I), (O, I), optional (O,) -> (N, O)."""
    out = np.matmul(x, weight.T, out=empty((len(x), len(weight))))
    if bias is not None:
        out += bias
    return out, (x, weight, bias is not None)


def linear_backward(
    empty: Empty, dout: np.ndarray, x: np.ndarray, weight: np.ndarray, has_bias: bool
) -> tuple[np.ndarray, ...]:
    dx = np.matmul(dout, weight, out=empty(x.shape))
    dweight = np.matmul(dout.T, x, out=empty(weight.shape))
    return (dx, dweight, _column_sums(dout)) if has_bias else (dx, dweight)


# --- layer norm (Ba et al. 2016) -------------------------------------------------------------------


def layer_norm_forward(empty: Empty, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Result:
    """(N, C), gain (C,), bias (C,) -> (N, C), each row normalised to mean 0 and variance 1 before the gain."""
    n_channels = x.shape[1]
    normed = np.subtract(x, _row_sums(empty, x) / n_channels, out=empty(x.shape))
    out = np.multiply(normed, normed, out=empty(x.shape))
    variance = _row_sums(empty, out) / n_channels
    inv_std = 1 / np.sqrt(variance + x.dtype.type(LAYER_NORM_EPS))  # (N, 1)
    normed *= inv_std
    np.multiply(normed, weight, out=out)
    out += bias
    return out, (normed, inv_std, weight)


def layer_norm_backward(
    empty: Empty, dout: np.ndarray, normed: np.ndarray, inv_std: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, ...]:
    n_channels = dout.shape[1]
    product = np.multiply(dout, normed, out=empty(dout.shape))
    dweight, dbias = _column_sums(product), _column_sums(dout)
    # With g = dout * weight: dx = inv_std * (g - mean(g) - normed * mean(g * normed)).
    product *= weight
    mean_product = _row_sums(empty, product) / n_channels
    dx = np.multiply(dout, weight, out=empty(dout.shape))
    dx -= _row_sums(empty, dx) / n_channels
    dx -= np.multiply(normed, mean_product, out=product)
    dx *= inv_std
    return dx, dweight, dbias


# --- GELU, tanh form (Hendrycks & Gimpel 2016) -----------------------------------------------------


def gelu_forward(empty: Empty, x: np.ndarray) -> Result:
    """x * s with s = (1 + tanh(z)) / 2 and z = sqrt(2/pi) * (x + 0.044715 x^3), elementwise."""
    square = np.multiply(x, x, out=empty(x.shape))
    s = np.multiply(square, x.dtype.type(GELU_SCALE * GELU_CUBIC), out=empty(x.shape))
    s += x.dtype.type(GELU_SCALE)
    s *= x
    np.tanh(s, out=s)
    s += 1
    s *= x.dtype.type(0.5)
    return np.multiply(x, s, out=empty(x.shape)), (x, square, s)


def gelu_backward(
    empty: Empty, dout: np.ndarray, x: np.ndarray, square: np.ndarray, s: np.ndarray
) -> tuple[np.ndarray]:
    # d(x s)/dx = s + x * s'; s' = 2 s (1 - s) z'; z' = sqrt(2/pi) * (1 + 3 * 0.044715 x^2).
    dx = np.multiply(square, x.dtype.type(6 * GELU_SCALE * GELU_CUBIC), out=empty(x.shape))
    dx += x.dtype.type(2 * GELU_SCALE)
    dx *= x
    dx *= np.subtract(1, s, out=empty(x.shape))
    dx += 1
    dx *= s
    dx *= dout
    return (dx,)


# --- rotary position embedding (Su et al. 2021) ----------------------------------------------------


def rope_rotations(n_positions: int, head_size: int, base: float, dtype: np.typing.DTypeLike) -> np.ndarray:
    """exp(i * t * base^(-2j/D)) for position t and pair j: complex (T, D/2) of the precision of ``dtype``."""
    angles = np.arange(n_positions)[:, None] * base ** (-np.arange(0, head_size, 2) / head_size)
    rotations = np.cos(angles) + 1j * np.sin(angles)
    return rotations.astype(np.result_type(dtype, np.complex64))


def rope_forward(empty: Empty, qkv: np.ndarray, rotations: np.ndarray) -> Result:
    """(B, T, 3, H, D): each consecutive pair of q and k, read as a complex number, is turned by its angle."""
    out = empty(qkv.shape)
    _rotate(qkv, rotations, out)
    return out, (rotations,)


def rope_backward(empty: Empty, dout: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray]:
    dqkv = empty(dout.shape)
    _rotate(dout, rotations.conj(), dqkv)  # the transpose of a rotation turns back
    return (dqkv,)


def _rotate(qkv: np.ndarray, rotations: np.ndarray, out: np.ndarray) -> None:
    turned = rotations[: qkv.shape[1], None, None, :]  # (T, 1, 1, D/2): the same for q, k and all heads
    np.multiply(qkv[:, :, :2].view(rotations.dtype), turned, out=out[:, :, :2].view(rotations.dtype))
    out[:, :, 2] = qkv[:, :, 2]  # v has no position


# --- causal self-attention (Vaswani et al. 2017) ---------------------------------------------------


def attention_forward(empty: Empty, qkv: np.ndarray, mask: np.ndarray, keep: np.ndarray | None = None) -> Result:
    """(B, T, 3, H, D) -> (B, T, H, D): softmax(q k / sqrt(D) + mask) v, a head at a time.

    Scores lie key-major, (B, H, key, query), so that the softmax reduces over the second to last axis,
    which NumPy does row by row at full speed. ``mask`` is added: 0, or -inf where a query must not see a
    key; broadcastable to (B, H, T, T). ``keep`` multiplies the probabilities (dropout), same shape.
    """
    B, T, _, H, D = qkv.shape
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # each (B, H, T, D), not copied
    probs = np.matmul(k, q.swapaxes(2, 3), out=empty((B, H, T, T)))
    probs *= qkv.dtype.type(D**-0.5)
    probs += mask
    probs -= probs.max(axis=2, keepdims=True)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=2, keepdims=True)
    dropped = probs if keep is None else np.multiply(probs, keep, out=empty(probs.shape))
    out = empty((B, T, H, D))
    np.matmul(dropped.swapaxes(2, 3), v, out=out.transpose(0, 2, 1, 3))
    return out, (q, k, v, probs, dropped, keep)


def attention_backward(
    empty: Empty,
    dout: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    probs: np.ndarray,
    dropped: np.ndarray,
    keep: np.ndarray | None,
) -> tuple[np.ndarray]:
    B, H, T, D = q.shape
    dqkv = empty((B, T, 3, H, D))
    dq, dk, dv = (dqkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    dout = dout.transpose(0, 2, 1, 3)  # (B, H, T, D)
    np.matmul(dropped, dout, out=dv)
    dscores = np.matmul(v, dout.swapaxes(2, 3), out=empty(probs.shape))
    if keep is not None:
        dscores *= keep
    # Softmax: dscores = probs * (dprobs - sum over keys of dprobs * probs).
    weighted = np.multiply(dscores, probs, out=empty(probs.shape))
    dscores -= weighted.sum(axis=2, keepdims=True)
    dscores *= probs
    dscores *= q.dtype.type(D**-0.5)
    np.matmul(dscores.swapaxes(2, 3), k, out=dq)
    np.matmul(dscores, q, out=dk)
    return (dqkv,)


# --- dropout and residual --------------------------------------------------------------------------


def dropout_forward(empty: Empty, x: np.ndarray, keep: np.ndarray) -> Result:
    """x * keep, where ``keep`` is 0 or 1 / (1 - p) (Srivastava et al. 2014); the caller draws it."""
    return np.multiply(x, keep, out=empty(x.shape)), (keep,)


def dropout_backward(empty: Empty, dout: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray]:
    return (np.multiply(dout, keep, out=empty(dout.shape)),)


def residual_forward(empty: Empty, x: np.ndarray, branch: np.ndarray, keep: np.ndarray | None = None) -> Result:
    """x + branch * keep: the residual stream takes up a branch, with dropout on the branch."""
    if keep is None:
        return np.add(x, branch, out=empty(x.shape)), (None,)
    out = np.multiply(branch, keep, out=empty(x.shape))
    out += x
    return out, (keep,)


def residual_backward(empty: Empty, dout: np.ndarray, keep: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    return dout, dout if keep is None else np.multiply(dout, keep, out=empty(dout.shape))


# --- reshape -----------------------------------------------------------------------------------------


def reshape_forward(empty: Empty, x: np.ndarray, shape: tuple[int, ...]) -> Result:
    """The same numbers in another shape, without a copy."""
    return x.reshape(shape), (x.shape,)


def reshape_backward(empty: Empty, dout: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray]:
    return (dout.reshape(shape),)


# --- cross entropy over a tied head ------------------------------------------------------------------


def tied_cross_entropy_forward(
    empty: Empty, hidden: np.ndarray, weight: np.ndarray, targets: np.ndarray, loss_mask: np.ndarray, n_targets: int
) -> Result:
    """Sum of -log softmax(weight @ hidden)[target] over unmasked rows, divided by ``n_targets``: shape (1,).

    (N, C), embedding (V, C), targets (N,), loss_mask (N,). ``n_targets`` counts the unmasked targets of
    the whole batch, of which these rows may be one microshard. Logits lie vocabulary-major, (V, N), for
    the same reason as the scores of attention.
    """
    rows = np.arange(len(hidden))
    probs = np.matmul(weight, hidden.T, out=empty((len(weight), len(hidden))))
    probs -= probs.max(axis=0)
    target_logits = probs[targets, rows]
    np.exp(probs, out=probs)
    total = probs.sum(axis=0)
    probs /= total
    scale = (loss_mask / n_targets).astype(hidden.dtype)  # (N,)
    loss = np.dot(np.log(total) - target_logits, scale)
    return np.full(1, loss, hidden.dtype), (hidden, weight, targets, scale, probs)


def tied_cross_entropy_backward(
    empty: Empty,
    dout: np.ndarray,
    hidden: np.ndarray,
    weight: np.ndarray,
    targets: np.ndarray,
    scale: np.ndarray,
    probs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    dlogits = np.multiply(probs, scale * dout, out=empty(probs.shape))  # (V, N)
    dlogits[targets, np.arange(len(targets))] -= scale * dout
    dhidden = np.matmul(dlogits.T, weight, out=empty(hidden.shape))
    dweight = np.matmul(dlogits, hidden, out=empty(weight.shape))
    return dhidden, dweight


# --- the table ---------------------------------------------------------------------------------------

embedding = Op("embedding", embedding_forward, embedding_backward)
linear = Op("linear", linear_forward, linear_backward)
layer_norm = Op("layer_norm", layer_norm_forward, layer_norm_backward)
gelu = Op("gelu", gelu_forward, gelu_backward)
rope = Op("rope", rope_forward, rope_backward)
attention = Op("attention", attention_forward, attention_backward)
dropout = Op("dropout", dropout_forward, dropout_backward)
residual = Op("residual", residual_forward, residual_backward)
reshape = Op("reshape", reshape_forward, reshape_backward)
tied_cross_entropy = Op("tied_cross_entropy", tied_cross_entropy_forward, tied_cross_entropy_backward)

OPS = {
    op.name: op
    for op in (embedding, linear, layer_norm, gelu, rope, attention, dropout, residual, reshape, tied_cross_entropy)
}
