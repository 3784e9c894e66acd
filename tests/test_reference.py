"""The training loop against the plain twin (course/plain.py), step by step; dropout, which the twin does not have.

test_plain.py holds loss and gradients against the twin. Taken from the project are only what other tests check: the
order of data and padding (test_batches.py) and the initial weights.
"""

import dataclasses

import numpy as np
import pytest
from conftest import ROOT, TINY_MODEL, TINY_TRAIN, random_store

from course import plain
from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import train
from minitrain.model import MiniGPT, initial_weights
from minitrain.params import read_params
from minitrain.training import state as train_state
from minitrain.training.state import initial_state

PARAMS = read_params(ROOT / "params.yaml")
LOCKED = PARAMS.model


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

# What exact arithmetic in float64 leaves (measured: 3e-11 of the weights, 3e-10 of the average).
TOLERANCE = 1e-10
NO_DROPOUT = dataclasses.replace(TINY_TRAIN, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)


def plain_run(model_config, config, train_set, val_set):
    """The same run by the twin: weights, average, (loss, learning rate, gradient norm) of each step, and (step, loss)
    of each evaluation.
    """
    model, data = MiniGPT(model_config), DataIterator(config.seed)
    params = dataclasses.replace(PARAMS, model=model_config, train=config)
    p = model.views(initial_state(model_config, config).model.weights.astype(np.float64))
    state = {name: (0 * w, 0 * w, w) for name, w in p.items()}
    val_batch, log, evaluations = pad(val_set, np.arange(len(val_set))), [], []
    for step in range(config.steps + 1):
        average = {name: of_name[2] for name, of_name in state.items()}
        if step % config.eval_every == 0 or step == config.steps:
            logits, _ = plain.model(average, val_batch.tokens, model_config)
            evaluations.append((step, plain.cross_entropy(logits, val_batch)[0]))
        if step == config.steps:
            return flat(model, p), flat(model, average), log, evaluations
        batch = pad(train_set, data.next_ids(len(train_set), config.batch_size))
        p, state, *logged = plain.train_step(p, state, batch, params, step)
        log.append(logged)


def flat(model, arrays):
    return np.concatenate([arrays[name].ravel() for name, _ in model.named_parameters()])


def final_state(config, train_set, val_set, model_config=TINY_MODEL):
    state = initial_state(model_config, config)
    list(train(state, train_set, val_set, model_config, config))
    return state


def assert_same_run(config, train_set, val_set, model_config=TINY_MODEL, tolerance=TOLERANCE):
    """The weights within ``tolerance``; the average and what it scores within ten times as much, since its rate is a
    float32 in the fast code.
    """
    state = final_state(config, train_set, val_set, model_config)
    weights, average, log, evaluations = plain_run(model_config, config, train_set, val_set)
    np.testing.assert_allclose(state.model.weights, weights, rtol=0, atol=tolerance)
    np.testing.assert_allclose(state.model.ema, average, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(state.log.steps, log, rtol=10 * tolerance)
    np.testing.assert_allclose(state.log.evaluations, evaluations, rtol=10 * tolerance)


@pytest.fixture
def in_float64(monkeypatch):
    """The fast code computes in the precision of its initial weights."""
    monkeypatch.setattr(train_state, "initial_weights", lambda *args: initial_weights(*args).astype(np.float64))


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
def test_the_run_is_the_twins(name, train_set, val_set, in_float64):
    assert_same_run(dataclasses.replace(NO_DROPOUT, **(RULES | SAME_NUMBERS)[name]), train_set, val_set)


def test_ten_steps_of_the_locked_model_are_the_twins(in_float64):
    store = random_store(20, seed=1, vocab_size=LOCKED.vocab_size, longest=LOCKED.context + 1)
    assert_same_run(dataclasses.replace(NO_DROPOUT, steps=10), store, store, LOCKED)


def test_in_float32_the_run_is_nearly_the_twins(train_set, val_set):
    assert_same_run(NO_DROPOUT, train_set, val_set, tolerance=2e-4)


@pytest.mark.parametrize("name", RULES)
def test_the_twin_tells_the_rules_apart(name, train_set, val_set):
    """The negative control: each rule's setting moves the weights far beyond the tolerance above."""
    changed = plain_run(TINY_MODEL, dataclasses.replace(NO_DROPOUT, **RULES[name]), train_set, val_set)
    as_configured = plain_run(TINY_MODEL, NO_DROPOUT, train_set, val_set)
    assert max(np.abs(changed[i] - as_configured[i]).max() for i in (0, 1)) > 1e6 * TOLERANCE


# --- dropout, of which the twin has none -------------------------------------------------------------


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
