"""The plain twin (course/plain.py) and the fast code compute the same loss, gradients and logits, in float64."""

import importlib.util

import numpy as np
import pytest
from conftest import ROOT, TINY_MODEL, edit, random_store

from course import plain
from minitrain.dataset.batches import pad
from minitrain.minitorch import arithmetic
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT, initial_weights
from minitrain.params import read_params

LOCKED = read_params(ROOT / "params.yaml").model
CONFIGS = pytest.mark.parametrize("config", [TINY_MODEL, LOCKED], ids=["tiny", "locked"])
# Of an array's largest entry. Native differs by rounding alone; exact takes a float64 factor as two pieces of 22 bits, a
# product of K terms is off by up to K * 2^-42 = K * 2e-13 (measured: 2e-14 and 5e-12).
TOLERANCE = {"native": 1e-12, "exact": 1e-10}


def weights_and_batch(config):
    """Gains and biases away from 1 and 0, scores away from 0; sequences of many lengths."""
    rng = np.random.Generator(np.random.PCG64(5))
    weights = initial_weights(MiniGPT(config), rng).astype(np.float64)
    weights += 0.3 * rng.normal(size=weights.shape)
    store = random_store(8, seed=5, vocab_size=config.vocab_size, longest=config.context + 1)
    return weights, pad(store, np.arange(8))


def distance(config, twin):
    """How far the loss or any gradient of the fast code is from the twin's, relative to its largest entry."""
    weights, batch = weights_and_batch(config)
    tape, flat = Tape(), np.zeros_like(weights)
    model = MiniGPT.with_weights(config, weights, flat)
    fast_loss = model.loss(tape, batch, batch.n_targets)
    tape.backward(fast_loss)
    fast_grads = model.views(flat)
    loss, grads = twin.loss_and_grads(model.views(weights), batch, config)
    assert grads.keys() == fast_grads.keys()
    differences = [np.abs(grad - fast_grads[name]).max() / np.abs(grad).max() for name, grad in grads.items()]
    return max(abs(fast_loss.data[0] / loss - 1), *differences)


@CONFIGS
@pytest.mark.parametrize("mode", TOLERANCE)
def test_loss_and_every_gradient_of_the_fast_code_are_those_of_the_twin(config, mode, back_to_exact):
    arithmetic.use(mode)
    assert distance(config, plain) <= TOLERANCE[mode]


# Each changes one rule of the twin.
CHANGES = {
    "scores not scaled": ("/ np.sqrt(q.shape[3]), -np.inf", ", -np.inf"),
    "a query sees the next key": ("np.tri(tokens.shape[1], dtype=bool)", "np.tri(tokens.shape[1], k=1, dtype=bool)"),
    "RoPE turns the other way in k": ("rope(k, np", "rope(k, -np"),
    "RoPE of halves, not of pairs": (
        "np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)",
        "np.concatenate(np.split(x, 2, axis=-1)[::-1], axis=-1)",
    ),
    "RoPE of another base": ("10000.0 **", "1000.0 **"),
    "another eps in LayerNorm": ("1e-5", "1.1e-5"),
    "the variance over C - 1": ("x.var(axis=-1,", "x.var(axis=-1, ddof=1,"),
    "another GELU": ("0.044715 * x**3", "0.0447 * x**3"),
    "the mean over pads too": ("batch.loss_mask[:, :, None]", "np.ones((*batch.tokens.shape, 1))"),
    "LayerNorm after the attention": ("attention(normed, [", "attention(x, ["),
    "the embedding used at the head alone": ("np.add.at(dembed", "np.add.at(0 * dembed"),
    "a gradient of the scores not scaled": ("keepdims=True)) / np.sqrt(q.shape[3])", "keepdims=True))"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_twin_with_one_other_rule_is_told_apart(name, tmp_path):
    """The negative control."""
    path = tmp_path / "changed.py"
    path.write_text((ROOT / "course/plain.py").read_text())
    edit(path, dict([CHANGES[name]]))
    spec = importlib.util.spec_from_file_location("changed", path)
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    assert distance(TINY_MODEL, changed) > 1e4 * TOLERANCE["exact"]


# --- properties that the papers promise ----------------------------------------------------------------


def test_scores_with_rope_depend_on_the_distance_of_two_positions_alone():
    """Su et al. 2021, equation 16: (R_m q) . (R_n k) is the same for every pair with the same n - m."""
    q, k = np.random.Generator(np.random.PCG64(0)).normal(size=(2, 16))
    positions = np.arange(32)
    turned_q, turned_k = (plain.rope(np.tile(x, (1, 1, 32, 1)), positions)[0, 0] for x in (q, k))  # (T, D) each
    scores = turned_q @ turned_k.T
    for offset in range(-31, 32):
        of_this_distance = np.diagonal(scores, offset)
        np.testing.assert_allclose(of_this_distance, of_this_distance[0], rtol=0, atol=1e-13)
    assert np.ptp(scores[0]) > 1  # but they do depend on it


def test_the_weights_of_all_keys_add_up_to_one_and_of_later_keys_and_pads_to_nothing():
    weights, batch = weights_and_batch(LOCKED)
    _, (caches, _, _) = plain.model(MiniGPT(LOCKED).views(weights), batch.tokens, LOCKED)
    T = batch.tokens.shape[1]
    for _, _, cache_of_attention, *_ in caches:
        probs = cache_of_attention[-1]  # (B, H, query, key)
        np.testing.assert_allclose(probs.sum(axis=-1), 1, rtol=1e-14)
        assert (probs[:, :, ~np.tri(T, dtype=bool)] == 0).all()
        assert (probs.transpose(0, 3, 1, 2)[~batch.loss_mask] == 0).all()


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-11), (np.float32, 1e-5)])
def test_no_logit_depends_on_a_later_token_but_for_its_last_bits(dtype, bound):
    """Exact arithmetic rounds keys and values by one step for the whole sequence, so a later token may move last bits."""
    model = MiniGPT.with_weights(TINY_MODEL, weights_and_batch(TINY_MODEL)[0].astype(dtype))
    tokens = np.array([[1, 5, 6, 7, 8, 9, 10, 11, 12], [1, 5, 6, 7, 8, 4, 10, 11, 12]])  # the sixth token differs
    before, after = (model.logits(Tape(False), sequence[None]) for sequence in tokens)
    assert np.abs(before[:5] - after[:5]).max() <= bound * np.abs(before).max()
    assert (np.abs(before[5:] - after[5:]).max(axis=1) > 0.01).all()
