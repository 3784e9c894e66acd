"""MiniGPT: its size and names, its gradients as a whole, pads and dropout. test_plain.py asks if it is the right one."""

import math

import numpy as np
import pytest
from conftest import TINY_MODEL, random_store

from minitrain.dataset.batches import pad
from minitrain.minitorch.tape import Tape
from minitrain.model import Dropout, MiniGPT, initial_weights
from minitrain.params import ModelConfig, read_params
from minitrain.scoring import perplexity, token_nll

LOCKED = ModelConfig(vocab_size=64, d_model=64, n_heads=4, n_layers=2, d_ff=256, context=32)


@pytest.fixture
def tiny():
    """A small model in float64, its weights and its gradients."""
    weights = initial_weights(MiniGPT(TINY_MODEL), np.random.Generator(np.random.PCG64(0))).astype(np.float64)
    grads = np.zeros_like(weights)
    return MiniGPT.with_weights(TINY_MODEL, weights, grads), weights, grads


def test_the_locked_config_has_103680_parameters_and_is_the_committed_one(root):
    assert MiniGPT(LOCKED).size == 103_680
    assert read_params(root / "params.yaml").model == LOCKED


def test_the_activations_are_those_of_every_layer(tiny):
    layers = tiny[0].activations(Tape(recording=False), np.array([[1, 4, 5]]))
    assert list(layers) == ["embed_out", "block_0_out", "block_1_out", "final_ln_out", "logits"]


def test_parameters_are_views_into_the_flat_vectors(tiny):
    model, weights, grads = tiny
    views, grad_views = model.views(weights), model.views(grads)
    for name, parameter in model.named_parameters():
        assert parameter.data.ctypes.data == views[name].ctypes.data
        assert parameter.grad.ctypes.data == grad_views[name].ctypes.data
        assert parameter.data.shape == views[name].shape == parameter.shape


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_whole_models_gradients_are_those_of_finite_differences(tiny, p):
    model, weights, grads = tiny
    weights += 0.05 * np.random.Generator(np.random.PCG64(1)).normal(size=weights.shape)  # biases off zero
    shard = pad(random_store(4, seed=5), np.arange(4))

    def loss(tape):
        dropout = Dropout(p, p, p, np.random.Generator(np.random.SFC64(3))) if p else None
        return model.loss(tape, shard, shard.n_targets, dropout)

    tape = Tape()
    tape.backward(loss(tape))
    assert np.count_nonzero(grads) > 0.95 * len(grads)
    for name, view in model.views(weights).items():
        step = 2e-6 * np.random.Generator(np.random.PCG64(2)).normal(size=view.shape)
        losses = []
        for move in (step, -2 * step):
            view += move
            losses.append(float(loss(Tape(recording=False)).data[0]))
        view += step
        expected = (model.views(grads)[name] * step).sum()
        assert (losses[0] - losses[1]) / 2 == pytest.approx(expected, rel=1e-6), name


def test_pads_change_neither_loss_nor_gradient(tiny):
    """A batch at once gives what its sequences give one by one, which need no pads."""
    model, _, grads = tiny
    store = random_store(5, seed=6)
    together = pad(store, np.arange(5))
    results = []
    for shards in ([together], [pad(store, np.array([i])) for i in range(5)]):
        grads[:] = loss = 0
        for shard in shards:
            tape = Tape()
            part = model.loss(tape, shard, together.n_targets)
            tape.backward(part)
            loss += float(part.data[0])
        results.append((loss, grads.copy()))
    (loss, gradient), (loss_of_each, gradient_of_each) = results
    assert loss == pytest.approx(loss_of_each, rel=1e-13)
    np.testing.assert_allclose(gradient, gradient_of_each, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_the_mean_nll_is_the_loss_whatever_the_batch_size(tiny, batch_size):
    store = random_store(9, seed=8)
    shard = pad(store, np.arange(9))
    loss = float(tiny[0].loss(Tape(), shard, shard.n_targets).data[0])
    nll = token_nll(tiny[0], store, batch_size=batch_size)
    assert len(nll) == shard.n_targets
    assert nll.mean() == pytest.approx(loss, rel=1e-12)
    assert perplexity(nll) == pytest.approx(math.exp(loss))


def test_dropout_drops_the_right_share_and_keeps_the_mean():
    dropout, dtype = Dropout(0, 0.2, 0.4, np.random.Generator(np.random.SFC64(0))), np.dtype(np.float32)
    mask = dropout.mask(0.3, (401, 501), dtype)
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((mask == 0).mean() - 0.3) < 0.005
    assert dropout.mask(0.0, (2, 2), dtype) is None
    one, two = dropout.block_masks(2, attention=(60, 50), residual=(300, 10), dtype=dtype)
    masks = (one.attention, two.attention, one.after_attention, two.after_attention, one.after_ffn, two.after_ffn)
    dropped = np.array([(mask == 0).ravel() for mask in masks], dtype=float)
    assert np.abs(dropped.mean(axis=1) - [0.4, 0.4, 0.2, 0.2, 0.2, 0.2]).max() < 0.03
    assert np.abs(np.corrcoef(dropped) - np.eye(6)).max() < 0.1  # each place has a mask of its own
