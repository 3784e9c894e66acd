"""JAX: one jitted function from a batch to the updated weights, with optax's AdamW; buffers are donated."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.workload import Contender, Work
from minitrain.dataset.tokenizer import PAD
from minitrain.model import ROPE_BASE
from minitrain.training.state import average_decay

Weights = dict[str, Any]

# The hardware's generator: the default one, threefry, costs several times as much on a CPU.
jax.config.update("jax_default_prng_impl", "unsafe_rbg")


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * weight + bias


def dropout(x: Any, p: float, key: Any) -> Any:
    if key is None or p == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0)


def loss_of(weights: Weights, tokens: Any, targets: Any, key: Any, work: Work) -> Any:
    """Mean cross entropy over real targets; no dropout where ``key`` is None."""
    config, params = work.model, work.train
    (B, T), C, H = tokens.shape, config.d_model, config.n_heads
    D = C // H
    keys = iter([None] * (1 + 3 * config.n_layers) if key is None else jax.random.split(key, 1 + 3 * config.n_layers))
    angles = np.arange(T)[:, None] * ROPE_BASE ** (-np.arange(0, D, 2) / D)
    cos, sin = jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)
    causal = np.tril(np.ones((T, T), dtype=bool))

    def rope(x: Any) -> Any:  # (B, H, T, D)
        a, b = x[..., 0::2], x[..., 1::2]
        return jnp.stack((a * cos - b * sin, a * sin + b * cos), axis=-1).reshape(x.shape)

    x = dropout(weights["embed.weight"][tokens], params.embed_dropout, next(keys))
    for i in range(config.n_layers):
        w = {name.removeprefix(f"blocks.{i}."): value for name, value in weights.items() if f"blocks.{i}." in name}
        normed = layer_norm(x, w["ln1.weight"], w["ln1.bias"])
        fused = jnp.concatenate([w["attn.q.weight"], w["attn.k.weight"], w["attn.v.weight"]])
        q, k, v = (normed @ fused.T).reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)
        scores = rope(q) @ rope(k).swapaxes(2, 3) / np.sqrt(D).astype(np.float32)
        probs = dropout(jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)), params.attention_dropout, next(keys))
        heads = (probs @ v).transpose(0, 2, 1, 3).reshape(B, T, C)
        x = x + dropout(heads @ w["attn.o.weight"].T, params.residual_dropout, next(keys))
        hidden = layer_norm(x, w["ln2.weight"], w["ln2.bias"]) @ w["ffn.up.weight"].T + w["ffn.up.bias"]
        branch = jax.nn.gelu(hidden, approximate=True) @ w["ffn.down.weight"].T + w["ffn.down.bias"]
        x = x + dropout(branch, params.residual_dropout, next(keys))
    logits = layer_norm(x, weights["ln_final.weight"], weights["ln_final.bias"]) @ weights["embed.weight"].T
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    real = targets != PAD
    return jnp.where(real, nll, 0).sum() / real.sum()


def build(work: Work, _variant: str = "") -> Contender:
    """Rows are padded to the context, so that there is one shape and one compilation."""
    params = work.train
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(params.lr / params.warmup_steps, params.lr, params.warmup_steps - 1),
            optax.cosine_decay_schedule(params.lr, params.steps - params.warmup_steps, params.lr_final / params.lr),
        ],
        [params.warmup_steps],
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(params.clip_norm),
        optax.adamw(
            schedule,
            params.beta1,
            params.beta2,
            params.eps,
            weight_decay=params.weight_decay,
            mask=lambda weights: jax.tree.map(lambda w: w.ndim == 2, weights),
        ),
    )
    weights = {name: jnp.array(value) for name, value in work.named_weights().items()}
    ema = {name: jnp.array(value) for name, value in work.named_weights().items()}

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(weights: Weights, ema: Weights, state: Any, key: Any, tokens: Any, targets: Any, decay: Any) -> Any:
        key, used = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_of)(weights, tokens, targets, used, work)
        changes, state = optimizer.update(grads, state, weights)
        weights = optax.apply_updates(weights, changes)
        ema = optax.incremental_update(weights, ema, 1 - decay)
        return weights, ema, state, key, loss

    carried = (weights, ema, optimizer.init(weights), jax.random.key(0))
    batches = enumerate(work.padded_batches())

    def step() -> float:
        nonlocal carried
        number, batch = next(batches)
        decay = np.float32(average_decay(number, params.ema_decay))
        *state, loss = update(*carried, *batch, decay)
        carried = tuple(state)
        return float(loss)

    def loss_and_grads() -> dict[str, np.ndarray]:
        loss, grads = jax.jit(jax.value_and_grad(partial(loss_of, key=None, work=work)))(
            work.named_weights(), *next(work.padded_batches())
        )
        return {name: np.asarray(value) for name, value in {"loss": loss, **grads}.items()}

    return Contender(step, loss_and_grads)
