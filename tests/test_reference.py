"""MiniGPT and the training loop against a second implementation, written here as plainly as possible in float64.

Finite differences only say that a gradient belongs to the model that is there. Whether it is the right model, trained
by the right rules, is asked here: nothing below uses the operations, the microshards or the optimizer under test. Taken
from the project are only what other tests check: the order of data and padding (test_batches.py), the learning rate
(test_optim.py) and the gradient (test_model.py).
"""

import dataclasses
import math

import numpy as np
import pytest
from conftest import ROOT, TINY_MODEL, TINY_TRAIN

from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import train
from minitrain.minitorch.schedule import Schedule
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT, initial_weights
from minitrain.params import read_params
from minitrain.training.state import initial_state

LOCKED = read_params(ROOT / "params.yaml").model


# --- the model ---------------------------------------------------------------------------------------


def layer_norm(x, weight, bias):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * weight + bias


def rotate(x, position):
    """RoPE on one head's vector: consecutive pairs, base 10000."""
    out = x.copy()
    for pair in range(len(x) // 2):
        angle = position * 10000 ** (-2 * pair / len(x))
        a, b = x[2 * pair], x[2 * pair + 1]
        out[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def reference_logits(p, config, tokens):
    """The logits of one sequence, position by position; ``p`` holds the parameters by name."""
    head = config.d_model // config.n_heads
    stream = [p["embed.weight"][token] for token in tokens]
    for i in range(config.n_layers):
        b = f"blocks.{i}."
        normed = [layer_norm(x, p[b + "ln1.weight"], p[b + "ln1.bias"]) for x in stream]
        q, k, v = ([p[f"{b}attn.{m}.weight"] @ x for x in normed] for m in "qkv")
        after = []
        for t, x in enumerate(stream):
            heads = []
            for h in range(config.n_heads):
                part = slice(h * head, (h + 1) * head)
                query = rotate(q[t][part], t)
                scores = np.array([query @ rotate(k[s][part], s) / math.sqrt(head) for s in range(t + 1)])
                weights = np.exp(scores) / np.exp(scores).sum()
                heads.append(sum(w * v[s][part] for s, w in enumerate(weights)))
            after.append(x + p[b + "attn.o.weight"] @ np.concatenate(heads))
        stream = []
        for x in after:
            normed_x = layer_norm(x, p[b + "ln2.weight"], p[b + "ln2.bias"])
            hidden = gelu(p[b + "ffn.up.weight"] @ normed_x + p[b + "ffn.up.bias"])
            stream.append(x + p[b + "ffn.down.weight"] @ hidden + p[b + "ffn.down.bias"])
    return np.array([p["embed.weight"] @ layer_norm(x, p["ln_final.weight"], p["ln_final.bias"]) for x in stream])


@pytest.mark.parametrize("config", [TINY_MODEL, LOCKED], ids=["tiny", "locked"])
def test_the_model_is_the_reference(config):
    rng = np.random.Generator(np.random.PCG64(5))
    weights = initial_weights(MiniGPT(config), rng).astype(np.float64)
    weights += 0.3 * rng.normal(size=weights.shape)  # gains and biases away from 1 and 0, scores away from 0
    model = MiniGPT.with_weights(config, weights)
    tokens = np.array([1, *rng.integers(4, config.vocab_size, size=config.context - 1)])
    got = model.logits(Tape(recording=False), tokens[None])
    np.testing.assert_allclose(got, reference_logits(model.views(weights), config, tokens), rtol=1e-9, atol=1e-9)


def test_initial_weights_have_the_documented_sizes():
    model = MiniGPT(LOCKED)
    views = model.views(initial_weights(model, np.random.Generator(np.random.PCG64(0))))
    expected = {"embed.weight": 0.02}
    for i in range(2):
        expected |= {f"blocks.{i}.attn.{m}.weight": 1 / 8 for m in "qkv"}
        expected |= {f"blocks.{i}.attn.o.weight": 1 / 8 / 2, f"blocks.{i}.ffn.up.weight": 1 / 8}
        expected |= {f"blocks.{i}.ffn.down.weight": 1 / 16 / 2}
    for name, view in views.items():
        if name in expected:
            assert view.std() == pytest.approx(expected[name], rel=0.05), name
            assert abs(view.mean()) < 0.1 * expected[name], name
        else:
            assert (view == (1.0 if "ln" in name and name.endswith("weight") else 0.0)).all(), name


# --- the run -----------------------------------------------------------------------------------------

NO_DROPOUT = dataclasses.replace(TINY_TRAIN, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)


def reference_loss(weights, store):
    """Nats a token over a store, one sequence at a time."""
    model, total, n = MiniGPT.with_weights(TINY_MODEL, weights), 0.0, 0
    for sequence in store.sequences():
        logits = model.logits(Tape(recording=False), sequence[None, :-1].astype(int))
        total += sum(math.log(np.exp(row).sum()) - row[t] for row, t in zip(logits, sequence[1:], strict=True))
        n += len(sequence) - 1
    return total / n


def reference_run(config, train_set, val_set):
    """The run as the documentation tells it: one batch, no microshards, float64 throughout."""
    weights = initial_state(TINY_MODEL, config).model.weights.astype(np.float64)
    grads = np.zeros_like(weights)
    model = MiniGPT.with_weights(TINY_MODEL, weights, grads)
    parts = model.views(weights).values()
    decays = np.concatenate([np.full(part.size, config.weight_decay * (part.ndim == 2)) for part in parts])
    m, v, ema = np.zeros_like(weights), np.zeros_like(weights), weights.copy()
    schedule = Schedule(config.lr, config.lr_final, config.warmup_steps, config.steps)
    data = DataIterator(config.seed)
    log, evaluations = [], []
    for step in range(config.steps + 1):
        if step % config.eval_every == 0 or step == config.steps:
            evaluations.append((step, reference_loss(ema, val_set), ema.copy()))
        if step == config.steps:
            break
        shard = pad(train_set, data.next_ids(len(train_set), config.batch_size))
        grads[:] = 0
        tape = Tape()
        loss = model.loss(tape, shard, int(shard.loss_mask.sum()))
        tape.backward(loss)
        norm = float(np.linalg.norm(grads))
        g = grads * min(1.0, config.clip_norm / norm)
        lr, t = schedule.lr_at(step), step + 1
        m = config.beta1 * m + (1 - config.beta1) * g
        v = config.beta2 * v + (1 - config.beta2) * g**2
        update = m / (1 - config.beta1**t) / (np.sqrt(v / (1 - config.beta2**t)) + config.eps)
        weights -= lr * (update + decays * weights)
        share = min(config.ema_decay, (1 + step) / (10 + step))
        ema = share * ema + (1 - share) * weights
        log.append((float(loss.data[0]), lr, norm))
    return weights, ema, log, evaluations


def final_state(config, train_set, val_set):
    state = initial_state(TINY_MODEL, config)
    for _ in train(state, train_set, val_set, TINY_MODEL, config):
        pass
    return state


# Each with other values, so that no two settings can be mistaken for each other.
RULES = {
    "strong decay": {"weight_decay": 5.0, "lr": 0.02, "lr_final": 0.01},
    "large eps": {"eps": 0.1},
    "tight clipping": {"clip_norm": 0.05},
    "no clipping": {"clip_norm": 100.0},
    "other betas": {"beta1": 0.5, "beta2": 0.99},
    "quick average": {"ema_decay": 0.2},
    "no warm-up": {"warmup_steps": 0},
}
SAME_NUMBERS = {"as configured": {}, "one microshard": {"microshards": 1}}


@pytest.mark.parametrize("name", [*RULES, *SAME_NUMBERS])
def test_the_run_is_the_reference(name, train_set, val_set):
    config = dataclasses.replace(NO_DROPOUT, **(RULES | SAME_NUMBERS)[name])
    state = final_state(config, train_set, val_set)
    weights, ema, log, evaluations = reference_run(config, train_set, val_set)
    np.testing.assert_allclose(state.model.weights, weights, atol=2e-4)
    np.testing.assert_allclose(state.model.ema, ema, atol=2e-4)
    np.testing.assert_allclose(state.log.steps, log, rtol=2e-3)
    np.testing.assert_allclose(state.log.evaluations, [(step, loss) for step, loss, _ in evaluations], rtol=2e-4)
    _, best_loss, best = min(evaluations, key=lambda evaluation: evaluation[1])
    assert state.best.loss == pytest.approx(best_loss, rel=2e-4)
    np.testing.assert_allclose(state.best.weights, best, atol=2e-4)


@pytest.mark.parametrize("name", RULES)
def test_the_reference_tells_the_rules_apart(name, train_set, val_set):
    """The negative control: each rule's setting moves the weights far beyond the tolerance above."""
    changed = reference_run(dataclasses.replace(NO_DROPOUT, **RULES[name]), train_set, val_set)
    plain = reference_run(NO_DROPOUT, train_set, val_set)
    assert max(np.abs(changed[0] - plain[0]).max(), np.abs(changed[1] - plain[1]).max()) > 1e-3


# --- dropout, of which the reference has none --------------------------------------------------------


@pytest.mark.parametrize("place", ["residual_dropout", "attention_dropout"])
def test_branch_dropout_drops_at_its_own_place(place, train_set, val_set):
    """With p close to 1 the branch, or the attention, is nearly gone after one step's gradient, and nothing else is."""
    state = final_state(dataclasses.replace(NO_DROPOUT, steps=1, **{place: 0.999}), train_set, val_set)
    moments = {name: np.abs(m).max() for name, m in MiniGPT(TINY_MODEL).views(state.optimizer.m).items()}
    attention = max(value for name, value in moments.items() if ".attn." in name)
    feed_forward = max(value for name, value in moments.items() if ".ffn." in name)
    gone = 1e-3 * moments["embed.weight"]
    assert attention < gone
    assert (feed_forward < gone) == (place == "residual_dropout")


def test_embedding_dropout_drops_in_training_and_never_in_evaluation(train_set, val_set):
    plain = final_state(dataclasses.replace(NO_DROPOUT, steps=1), train_set, val_set)
    dropped = final_state(dataclasses.replace(NO_DROPOUT, steps=1, embed_dropout=0.5), train_set, val_set)
    # The gradient norm tells: the loss of a fresh model is ln V, dropout or not.
    assert dropped.log.steps[0][2] != pytest.approx(plain.log.steps[0][2], rel=1e-2)
    assert dropped.log.evaluations[0] == plain.log.evaluations[0]
