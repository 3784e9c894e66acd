"""The plain twin: MiniGPT, its loss, its gradient and AdamW as the papers write them, in float64, without one trick.

Read it from top to bottom. A gradient stands below its function: ``cache`` is what it needs of the forward pass, dx is
the gradient of the loss with respect to x. B sequences are padded to T positions; C channels, H heads of D = C / H
channels, F hidden channels, V tokens. There is no dropout. A ``Microshard`` is a padded batch here. The initial
weights are those of the fast code, to compare the two. ``python -m course.plain`` takes 50 steps on the corpus; the
loss falls from 4.07 at step 10 to 2.98 at step 50.
"""

from typing import Any

import numpy as np

from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.batches import DataIterator, Microshard, pad
from minitrain.dataset.read import read_dataset
from minitrain.dataset.tokenizer import PAD
from minitrain.model import MiniGPT
from minitrain.params import ModelConfig, Params, TrainConfig, read_params
from minitrain.training.state import initial_state

Array = np.ndarray
Arrays = dict[str, Array]  # by the name of the parameter, as in MiniGPT.views


def linear_backward(dy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Of y = x W^T + b, (B, T, I) -> (B, T, O): the gradients of x, W (O, I) and b (O,)."""
    return dy @ w, np.einsum("bto,bti->oi", dy, x), dy.sum(axis=(0, 1))


def layer_norm(x: Array, gain: Array, bias: Array) -> tuple[Array, Any]:
    """Ba et al. 2016, equations 3 and 4, over the channels of each position: (B, T, C) -> (B, T, C)."""
    std = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)  # (B, T, 1)
    normed = (x - x.mean(axis=-1, keepdims=True)) / std
    return gain * normed + bias, (normed, std, gain)


def layer_norm_backward(dy: Array, cache: Any) -> tuple[Array, Array, Array]:
    normed, std, gain = cache
    dn = dy * gain
    dx = (dn - dn.mean(axis=-1, keepdims=True) - normed * (dn * normed).mean(axis=-1, keepdims=True)) / std
    return dx, (dy * normed).sum(axis=(0, 1)), dy.sum(axis=(0, 1))


def gelu(x: Array) -> tuple[Array, Any]:
    """Hendrycks & Gimpel 2016, section 2, the form with tanh: (B, T, F) -> (B, T, F)."""
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + tanh), (x, tanh)


def gelu_backward(dy: Array, cache: Any) -> Array:
    x, tanh = cache
    dtanh = (1 - tanh**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return dy * (0.5 * (1 + tanh) + 0.5 * x * dtanh)


def rope(x: Array, positions: Array) -> Array:
    """Su et al. 2021, equation 34: turn each pair of x (B, H, T, D). The gradient turns back: rope(dy, -positions)."""
    theta = 10000.0 ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])  # (D/2,)
    angles = np.repeat(positions[:, None] * theta, 2, axis=1)  # (T, D): both channels of a pair have the same
    crossed = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)  # (-x2, x1, -x4, x3, ...)
    return x * np.cos(angles) + crossed * np.sin(angles)


def attention(x: Array, weights: list[Array], n_heads: int, visible: Array) -> tuple[Array, Any]:
    """Vaswani et al. 2017, equation 1 for each head, section 3.2.2 for all: (B, T, C) -> (B, T, C); four weights.
    ``visible`` (B, 1, T, T) is False where the query (row) must not see the key (column).
    """
    wq, wk, wv, wo = (w.reshape(n_heads, -1, x.shape[2]) for w in (*weights[:3], weights[3].T))  # (H, D, C) each
    q, k, v = (np.einsum("btc,hdc->bhtd", x, w) for w in (wq, wk, wv))  # (B, H, T, D) each
    q, k = rope(q, np.arange(x.shape[1])), rope(k, np.arange(x.shape[1]))
    scores = np.where(visible, q @ k.swapaxes(2, 3) / np.sqrt(q.shape[3]), -np.inf)  # (B, H, T, T)
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs = exps / exps.sum(axis=-1, keepdims=True)  # softmax
    return np.einsum("bhtd,hdc->btc", probs @ v, wo), (x, wq, wk, wv, wo, q, k, v, probs)


def attention_backward(dy: Array, cache: Any) -> tuple[Array, ...]:
    x, wq, wk, wv, wo, q, k, v, probs = cache
    dheads, dwo = np.einsum("btc,hdc->bhtd", dy, wo), np.einsum("bhtd,btc->hdc", probs @ v, dy)
    dprobs = dheads @ v.swapaxes(2, 3)
    dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True)) / np.sqrt(q.shape[3])
    back, C = -np.arange(x.shape[1]), x.shape[2]
    dqkv = rope(dscores @ k, back), rope(dscores.swapaxes(2, 3) @ q, back), probs.swapaxes(2, 3) @ dheads
    dx = sum(np.einsum("bhtd,hdc->btc", d, w) for d, w in zip(dqkv, (wq, wk, wv), strict=True))
    return dx, *(np.einsum("bhtd,btc->hdc", d, x).reshape(C, C) for d in dqkv), dwo.reshape(C, C).T


def cross_entropy(logits: Array, batch: Microshard) -> tuple[float, Array]:
    """The mean of -log softmax(logits)[target] over the real targets, and its gradient: (B, T, V) -> (B, T, V)."""
    real, one_hot = batch.loss_mask[:, :, None], np.eye(logits.shape[2])[batch.targets]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -(log_probs * one_hot * real).sum() / real.sum(), (np.exp(log_probs) - one_hot) * real / real.sum()


def model(p: Arrays, tokens: Array, config: ModelConfig) -> tuple[Array, Any]:
    """Tokens (B, T) -> logits (B, T, V). Pre-LN (Radford et al. 2019, section 2.3), tied head (Press & Wolf 2017)."""
    visible = np.tri(tokens.shape[1], dtype=bool) & (tokens != PAD)[:, None, None, :]  # no later key, no pad
    x, caches = p["embed.weight"][tokens], []  # (B, T, C)
    for b in (f"blocks.{i}." for i in range(config.n_layers)):
        normed, cache1 = layer_norm(x, p[b + "ln1.weight"], p[b + "ln1.bias"])
        attended, cache2 = attention(normed, [p[f"{b}attn.{name}.weight"] for name in "qkvo"], config.n_heads, visible)
        x = x + attended
        normed, cache3 = layer_norm(x, p[b + "ln2.weight"], p[b + "ln2.bias"])
        hidden, cache4 = gelu(normed @ p[b + "ffn.up.weight"].T + p[b + "ffn.up.bias"])  # (B, T, F)
        x = x + hidden @ p[b + "ffn.down.weight"].T + p[b + "ffn.down.bias"]
        caches.append((b, cache1, cache2, cache3, normed, cache4, hidden))
    normed, cache = layer_norm(x, p["ln_final.weight"], p["ln_final.bias"])
    return normed @ p["embed.weight"].T, (caches, cache, normed)


def loss_and_grads(p: Arrays, batch: Microshard, config: ModelConfig) -> tuple[float, Arrays]:
    """The loss of a batch in nats, and its gradient by each parameter: back through the model."""
    logits, (caches, cache, normed) = model(p, batch.tokens, config)
    loss, dlogits = cross_entropy(logits, batch)
    dx, dembed, _ = linear_backward(dlogits, normed, p["embed.weight"])
    g: Arrays = {}
    dx, g["ln_final.weight"], g["ln_final.bias"] = layer_norm_backward(dx, cache)
    for b, cache1, cache2, cache3, normed, cache4, hidden in reversed(caches):
        dh, g[b + "ffn.down.weight"], g[b + "ffn.down.bias"] = linear_backward(dx, hidden, p[b + "ffn.down.weight"])
        dh = gelu_backward(dh, cache4)
        dn, g[b + "ffn.up.weight"], g[b + "ffn.up.bias"] = linear_backward(dh, normed, p[b + "ffn.up.weight"])
        dn, g[b + "ln2.weight"], g[b + "ln2.bias"] = layer_norm_backward(dn, cache3)
        dx = dx + dn
        dn, *dweights = attention_backward(dx, cache2)
        g |= {f"{b}attn.{name}.weight": dw for name, dw in zip("qkvo", dweights, strict=True)}
        dn, g[b + "ln1.weight"], g[b + "ln1.bias"] = layer_norm_backward(dn, cache1)
        dx = dx + dn
    np.add.at(dembed, batch.tokens, dx)  # the embedding is used twice: at the head, and for each token
    return loss, g | {"embed.weight": dembed}


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up (Goyal et al. 2017, section 2.2), then a cosine (Loshchilov & Hutter 2017, equation 5)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)  # from 0 to 1
    return config.lr_final + 0.5 * (config.lr - config.lr_final) * (1 + np.cos(np.pi * progress))


def adamw(theta: Array, g: Array, m: Array, v: Array, eta: float, t: int, config: TrainConfig) -> tuple[Array, ...]:
    """Loshchilov & Hutter 2019, algorithm 2, lines 7 to 12, with alpha = 1: the new theta, m and v."""
    m = config.beta1 * m + (1 - config.beta1) * g
    v = config.beta2 * v + (1 - config.beta2) * g**2
    m_hat = m / (1 - config.beta1**t)
    v_hat = v / (1 - config.beta2**t)
    decay = config.weight_decay if theta.ndim == 2 else 0  # of matrices alone, not of gains and biases
    return theta - eta * (m_hat / (np.sqrt(v_hat) + config.eps) + decay * theta), m, v


def train_step(p: Arrays, state: Any, batch: Microshard, config: Params, step: int) -> tuple[Any, ...]:
    """The next p and state, which holds (m, v, average) of each parameter; loss, learning rate, gradient norm."""
    loss, grads = loss_and_grads(p, batch, config.model)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    shrink = min(1, config.train.clip_norm / norm)  # clipping: Pascanu et al. 2013, algorithm 1
    eta = learning_rate(step, config.train)
    stays = min(config.train.ema_decay, (1 + step) / (10 + step))  # of the running average of the weights
    new_p, new_state = {}, {}
    for name, (m, v, average) in state.items():
        new_p[name], m, v = adamw(p[name], shrink * grads[name], m, v, eta, step + 1, config.train)
        new_state[name] = m, v, stays * average + (1 - stays) * new_p[name]
    return new_p, new_state, loss, eta, norm


def main() -> None:
    config = read_params()
    train_set, data = read_dataset(BATCHES, config.model).stores["train"], DataIterator(config.train.seed)
    weights = initial_state(config.model, config.train).model.weights.astype(np.float64)
    p = MiniGPT(config.model).views(weights)
    state = {name: (0 * theta, 0 * theta, theta) for name, theta in p.items()}
    for step in range(50):
        batch = pad(train_set, data.next_ids(len(train_set), config.train.batch_size))
        p, state, loss, *_ = train_step(p, state, batch, config, step)
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss:.4f}")


if __name__ == "__main__":
    run_command(main)
