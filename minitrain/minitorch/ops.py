"""The operations of a GPT on rows, with their gradients, fused to the size of a layer part.

``sequence_ops`` has those over the positions of a sequence: padding, rotary embedding, attention.

Each is a pair of functions (see ``tape.Op``); a gradient check in float64 runs over all of them. Shapes:
B sequences of T positions, of which N <= B*T are not padding; C channels, H heads of D = C/H channels,
V tokens. Names in front of a gradient follow one rule: ``dx`` is the gradient of the loss with respect to ``x``.

Three habits make them fast (course/plain.py has none of them). What an operation has made itself, it changes in
place: memory that was just written is in the cache. NumPy reduces a short last axis slowly: a softmax has the axis to
reduce in front. And what forward has computed is saved for backward instead of computed again.

Products, sums and functions are those of ``arithmetic``. What goes into a product is ``rounded`` first; in forward
each row by itself, so that no other row of the batch can change a bit of its result.
"""

import math
from typing import Any

import numpy as np

from minitrain.minitorch.arithmetic import exp, log, logistic, matmul, rounded, total
from minitrain.minitorch.tape import Op

LAYER_NORM_EPS = 1e-5
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715

Result = tuple[np.ndarray, tuple[Any, ...]]


def _row_means(x: np.ndarray) -> np.ndarray:
    """Means over the last axis of (N, C), as a column (N, 1)."""
    return (total(x.T) / x.dtype.type(x.shape[1]))[:, None]


# --- embedding: rows of a table --------------------------------------------------------------------


def embedding_forward(weight: np.ndarray, tokens: np.ndarray) -> Result:
    """(V, C), token ids (N,) -> (N, C)."""
    return weight[tokens], (tokens, len(weight))


def embedding_backward(dout: np.ndarray, tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray]:
    # dweight[v] is the sum of the rows of dout at token v: a product with the one-hot matrix.
    # Plainly: np.add.at, see course/plain.py, loss_and_grads. A product is faster.
    one_hot = (tokens == np.arange(vocab_size)[:, None]).astype(dout.dtype)  # (V, N)
    return (matmul(one_hot, rounded(dout)),)


embedding = Op(embedding_forward, embedding_backward)


# --- linear: x @ weight.T + bias -------------------------------------------------------------------


def linear_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> Result:
    """(N, I), (O, I), optional (O,) -> (N, O)."""
    x, weight = rounded(x, 1), rounded(weight)
    out = matmul(x, weight.T)
    if bias is not None:
        out += bias
    return out, (x, weight, bias is not None)


def linear_backward(dout: np.ndarray, x: np.ndarray, weight: np.ndarray, has_bias: bool) -> tuple[np.ndarray, ...]:
    rounded_dout = rounded(dout)
    dx, dweight = matmul(rounded_dout, weight), matmul(rounded_dout.T, rounded(x))
    return (dx, dweight, total(dout)) if has_bias else (dx, dweight)


linear = Op(linear_forward, linear_backward)


# --- layer norm (Ba et al. 2016) -------------------------------------------------------------------


def layer_norm_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Result:
    """(N, C), gain (C,), bias (C,) -> (N, C), each row normalised to mean 0 and variance 1 before the gain (Ba et al.
    2016, equations 3 and 4).
    """
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
    # With g = dout * weight: dx = inv_std * (g - mean(g) - normed * mean(g * normed)).
    product = dout * normed
    dweight, dbias = total(product), total(dout)
    product *= weight
    dx = dout * weight
    mean_g, mean_g_normed = _row_means(dx), _row_means(product)
    dx -= mean_g
    dx -= np.multiply(normed, mean_g_normed, out=product)
    dx *= inv_std
    return dx, dweight, dbias


layer_norm = Op(layer_norm_forward, layer_norm_backward)


# --- GELU, tanh form (Hendrycks & Gimpel 2016) -----------------------------------------------------


def gelu_forward(x: np.ndarray) -> Result:
    """x * s with s = (1 + tanh(z)) / 2 = logistic(2 z) and z = sqrt(2/pi) * (x + 0.044715 x^3), elementwise.

    Hendrycks & Gimpel 2016, section 2.
    """
    square = x * x
    z2 = square * x.dtype.type(2 * GELU_SCALE * GELU_CUBIC)
    z2 += x.dtype.type(2 * GELU_SCALE)
    z2 *= x
    s = logistic(z2)
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


gelu = Op(gelu_forward, gelu_backward)


# --- dropout and residual --------------------------------------------------------------------------


def dropout_forward(x: np.ndarray, dropout_mask: np.ndarray) -> Result:
    """x * dropout_mask, where ``dropout_mask`` is 0 or 1 / (1 - p); the caller draws it.

    Srivastava et al. 2014, section 4; scaled in training, as in their section 10.
    """
    return x * dropout_mask, (dropout_mask,)


def dropout_backward(dout: np.ndarray, dropout_mask: np.ndarray) -> tuple[np.ndarray]:
    return (dout * dropout_mask,)


dropout = Op(dropout_forward, dropout_backward)


def residual_forward(x: np.ndarray, branch: np.ndarray, dropout_mask: np.ndarray | None = None) -> Result:
    """x + branch * dropout_mask: the residual stream takes up a branch, with dropout on the branch.

    He et al. 2016, equation 1. One operation for both; plainly, without dropout: course/plain.py, model.
    """
    if dropout_mask is None:
        return x + branch, (None,)
    out = branch * dropout_mask
    out += x
    return out, (dropout_mask,)


def residual_backward(dout: np.ndarray, dropout_mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    return dout, dout if dropout_mask is None else dout * dropout_mask


residual = Op(residual_forward, residual_backward)


# --- cross entropy over a tied head ------------------------------------------------------------------


def tied_cross_entropy_forward(hidden: np.ndarray, weight: np.ndarray, targets: np.ndarray, n_targets: int) -> Result:
    """Sum of -log softmax(weight @ hidden)[target] over the rows, divided by ``n_targets``: shape (1,).

    (N, C), embedding (V, C), targets (N,). ``n_targets`` counts the targets of the whole batch, of which
    these rows may be one microshard. Logits are (V, N), for the same reason as the scores of attention. The head is the
    embedding (Press & Wolf 2017, section 3). Plainly: course/plain.py, cross_entropy.
    """
    rows = np.arange(len(hidden))
    hidden, weight = rounded(hidden, 1), rounded(weight)
    logits = matmul(weight, hidden.T)
    logits -= logits.max(axis=0)
    target_logits = logits[targets, rows]
    probs = exp(logits)
    sums = total(probs)
    probs /= sums
    loss = total(log(sums) - target_logits) / n_targets
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
    dlogits = rounded(dlogits)
    return matmul(dlogits.T, weight), matmul(dlogits, rounded(hidden))


tied_cross_entropy = Op(tied_cross_entropy_forward, tied_cross_entropy_backward)
