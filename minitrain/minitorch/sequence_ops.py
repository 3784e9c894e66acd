"""The operations over the positions of a sequence, with their gradients: padding, rotary embedding, attention.

Shapes and names as in ``ops``. Only these see the rectangle of B sequences of T positions; all other operations
work on the N rows that are not padding.
"""

import math
from typing import NamedTuple

import numpy as np

from minitrain.minitorch.arithmetic import cos_sin, exp, log, matmul, rounded, total
from minitrain.minitorch.ops import Result
from minitrain.minitorch.tape import Op

# --- padding ---------------------------------------------------------------------------------------


class Padding(NamedTuple):
    """The places of N rows, one sequence after the other, in a rectangle of B sequences of T positions.

    All operations but attention work on the N rows, so that no time goes into padding. Plainly, in rectangles
    throughout: course/plain.py.
    """

    shape: tuple[int, int]  # (B, T)
    real: np.ndarray  # (N,) the place of each row among the B*T positions
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
        return x.reshape(B * T, -1)[self.real]


def add_padding_forward(x: np.ndarray, padding: Padding) -> Result:
    """(N, C) -> (B, T, C), zero at pads."""
    return padding.add(x), (padding,)


def add_padding_backward(dout: np.ndarray, padding: Padding) -> tuple[np.ndarray]:
    return (padding.remove(dout),)


add_padding = Op(add_padding_forward, add_padding_backward)


def remove_padding_forward(x: np.ndarray, padding: Padding) -> Result:
    """(B, T, C) -> (N, C)."""
    return padding.remove(x), (padding,)


def remove_padding_backward(dout: np.ndarray, padding: Padding) -> tuple[np.ndarray]:
    return (padding.add(dout),)


remove_padding = Op(remove_padding_forward, remove_padding_backward)


# --- rotary position embedding (Su et al. 2021) ----------------------------------------------------


class Rotations(NamedTuple):
    """Cosine and sine of the angle by which each number of q and k is turned, (T, 2C) each; those for q are divided by
    sqrt(D), which attention then need not do with every score. Plainly: course/plain.py, rope and attention.
    """

    cos: np.ndarray
    sin: np.ndarray


def rope_rotations(
    n_positions: int, n_heads: int, head_size: int, base: float, dtype: np.typing.DTypeLike
) -> Rotations:
    """The angle of position t and pair j of a head is t * base^(-2j/D) (Su et al. 2021, equation 15); both numbers of a
    pair have the same.
    """
    rates = exp(-np.arange(0, head_size, 2) / head_size * log(np.array([base])))  # (D/2,)
    of_a_head = cos_sin(np.arange(n_positions)[:, None] * rates)  # (T, D/2), twice
    of_k = (np.tile(np.repeat(table, 2, axis=1), n_heads) for table in of_a_head)  # (T, C), twice
    return Rotations(*(np.hstack([table / math.sqrt(head_size), table]).astype(dtype) for table in of_k))


def rope_forward(qkv: np.ndarray, rotations: Rotations) -> Result:
    """(B, T, 3C): each consecutive pair of numbers in q and k, read as a point of the plane, is turned (Su et al. 2021,
    equation 34).
    """
    return _rotate(qkv, rotations.cos, rotations.sin), (rotations,)


def rope_backward(dout: np.ndarray, rotations: Rotations) -> tuple[np.ndarray]:
    return (_rotate(dout, rotations.cos, -rotations.sin),)  # the transpose of a turn turns back


rope = Op(rope_forward, rope_backward)


def _rotate(qkv: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """(x, y) -> (x cos - y sin, y cos + x sin) for each pair of q and k; v has no position."""
    T, n = qkv.shape[1], cos.shape[1]
    qk, out = qkv[:, :, :n], np.empty_like(qkv)
    out[:, :, n:] = qkv[:, :, n:]
    turned = np.multiply(qk, cos[:T], out=out[:, :, :n])
    turned[:, :, 0::2] -= qk[:, :, 1::2] * sin[:T, 1::2]
    turned[:, :, 1::2] += qk[:, :, 0::2] * sin[:T, 0::2]
    return out


# --- causal self-attention (Vaswani et al. 2017) ---------------------------------------------------


def attention_mask(real: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(B, T), False at pads -> (key, B, 1, query): 0 where the query may see the key, -inf for a later key or a pad."""
    T = real.shape[1]
    causal = np.arange(T)[:, None] <= np.arange(T)  # (key, query)
    visible = causal[:, None] & real.T[:, :, None]  # (key, B, query)
    mask: np.ndarray = np.where(visible, dtype.type(0), dtype.type(-np.inf))
    return mask[:, :, None]


def attention_forward(
    qkv: np.ndarray, mask: np.ndarray, n_heads: int, dropout_mask: np.ndarray | None = None
) -> Result:
    """(B, T, 3C) -> (B, T, C): softmax(q k + mask) v, a head at a time; q is divided by sqrt(D) already (Vaswani et al.
    2017, equation 1 and section 3.2.2).

    Scores are (key, B, H, query), so that the softmax reduces over the first axis, in whole rows of
    B*H*T numbers. Plainly, the key last: course/plain.py, attention. ``mask`` is added: 0, or -inf where a
    query must not see a key; broadcastable to that shape. ``dropout_mask`` multiplies the probabilities (dropout), same
    shape.
    """
    B, T, _ = qkv.shape
    qkv = rounded(qkv.reshape(B, T, 3, -1), 1, 3)  # each of q, k and v by itself, and each sequence
    heads = qkv.reshape(B, T, 3, n_heads, -1)
    q, k, v = (heads[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # each (B, H, T, D), not copied
    scores = np.empty((T, B, n_heads, T), qkv.dtype)
    matmul(k, q.swapaxes(2, 3), out=scores.transpose(1, 2, 0, 3))
    scores += mask
    scores -= scores.max(axis=0)
    probs = exp(scores)
    probs /= total(probs)
    dropped = rounded(probs if dropout_mask is None else probs * dropout_mask, 0, 3)
    out = np.empty((B, T, *heads.shape[3:]), qkv.dtype)
    matmul(dropped.transpose(1, 2, 3, 0), v, out=out.transpose(0, 2, 1, 3))
    return out.reshape(B, T, -1), (q, k, v, probs, dropped, dropout_mask)


def attention_backward(
    dout: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    probs: np.ndarray,
    dropped: np.ndarray,
    dropout_mask: np.ndarray | None,
) -> tuple[np.ndarray]:
    B, H, T, D = q.shape
    dqkv = np.empty((B, T, 3, H, D), dout.dtype)
    dq, dk, dv = (dqkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    dout = rounded(dout).reshape(B, T, H, D).transpose(0, 2, 1, 3)  # (B, H, T, D)
    matmul(dropped.transpose(1, 2, 0, 3), dout, out=dv)
    dscores = np.empty_like(probs)  # (key, B, H, query)
    matmul(v, dout.swapaxes(2, 3), out=dscores.transpose(1, 2, 0, 3))
    if dropout_mask is not None:
        dscores *= dropout_mask
    # Softmax: dscores = probs * (dprobs - sum over keys of dprobs * probs).
    dscores -= total(dscores * probs)
    dscores *= probs
    dscores = rounded(dscores)
    matmul(dscores.transpose(1, 2, 3, 0), k, out=dq)
    matmul(dscores.transpose(1, 2, 0, 3), q, out=dk)
    return (dqkv.reshape(B, T, -1),)


attention = Op(attention_forward, attention_backward)
