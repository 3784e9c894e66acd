"""MiniGPT: its size and names, its gradients as a whole, and what it must not see."""

import math

import numpy as np
import pytest
from conftest import TINY_MODEL, random_store

from minitrain.dataset.batches import make_microshards, pad
from minitrain.dataset.stores import TokenStore
from minitrain.minitorch.gradcheck import numeric_gradient, relative_error
from minitrain.minitorch.sequence_ops import attention_mask
from minitrain.minitorch.tape import Tape
from minitrain.model import Dropout, MiniGPT, initial_weights
from minitrain.params import ModelConfig, read_params
from minitrain.scoring import perplexity, token_nll

LOCKED = ModelConfig(vocab_size=64, d_model=64, n_heads=4, n_layers=2, d_ff=256, context=32)


def make(config=TINY_MODEL, dtype=np.float64, seed=0):
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = initial_weights(MiniGPT(config), rng).astype(dtype)
    grads = np.zeros_like(weights)
    return MiniGPT.with_weights(config, weights, grads), weights, grads


def test_the_locked_config_has_103680_parameters_and_is_the_committed_one(root):
    assert MiniGPT(LOCKED).size == 103_680
    assert read_params(root / "params.yaml").model == LOCKED


def test_names_and_shapes_load_into_pytorch():
    shapes = {name: parameter.shape for name, parameter in MiniGPT(LOCKED).named_parameters()}
    expected = {"embed.weight": (64, 64), "ln_final.weight": (64,), "ln_final.bias": (64,)}
    for i in range(2):
        expected |= {f"blocks.{i}.{ln}.{part}": (64,) for ln in ("ln1", "ln2") for part in ("weight", "bias")}
        expected |= {f"blocks.{i}.attn.{m}.weight": (64, 64) for m in "qkvo"}
        expected |= {f"blocks.{i}.ffn.up.weight": (256, 64), f"blocks.{i}.ffn.up.bias": (256,)}
        expected |= {f"blocks.{i}.ffn.down.weight": (64, 256), f"blocks.{i}.ffn.down.bias": (64,)}
    assert shapes == expected


def test_parameters_are_views_into_the_flat_vectors():
    model, weights, grads = make()
    views, grad_views = model.views(weights), model.views(grads)
    for name, parameter in model.named_parameters():
        assert parameter.data.ctypes.data == views[name].ctypes.data
        assert parameter.grad.ctypes.data == grad_views[name].ctypes.data
    weights[:] = 5
    assert all((parameter.data == 5).all() for _, parameter in model.named_parameters())


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_whole_models_gradients_are_those_of_finite_differences(p):
    model, weights, grads = make()
    weights += 0.05 * np.random.Generator(np.random.PCG64(1)).normal(size=weights.shape)  # biases off zero
    shard = pad(random_store(4, seed=5), np.arange(4))

    def loss(tape):
        dropout = Dropout(p, p, p, np.random.Generator(np.random.SFC64(3))) if p else None
        return model.loss(tape, shard, shard.n_targets, dropout)

    tape = Tape()
    tape.backward(loss(tape))
    numeric = numeric_gradient(lambda: float(loss(Tape(recording=False)).data[0]), weights, 1e-5)
    assert np.count_nonzero(grads) > 0.95 * len(grads)
    for name, view in model.views(grads).items():
        assert relative_error(view, model.views(numeric)[name]) <= 1e-6, name


def test_the_locked_models_gradient_along_random_directions():
    """Too many parameters to perturb one by one: the slope along a direction is the gradient's product with it."""
    model, weights, grads = make(LOCKED)
    shard = pad(random_store(6, seed=5, vocab_size=64, longest=33), np.arange(6))
    tape = Tape()
    tape.backward(model.loss(tape, shard, shard.n_targets))
    start = weights.copy()
    for seed in range(5):
        direction = np.random.Generator(np.random.PCG64(seed)).normal(size=weights.shape)
        direction /= np.linalg.norm(direction)
        values = []
        for step in (1e-4, -1e-4):
            weights[:] = start + step * direction
            values.append(float(model.loss(Tape(recording=False), shard, shard.n_targets).data[0]))
        slope = (values[0] - values[1]) / 2e-4
        assert abs(slope - grads @ direction) <= 1e-6 * abs(slope)


def test_a_later_token_changes_no_earlier_logit():
    model, _, _ = make()
    tokens = np.array([[1, 5, 6, 7, 8]])
    changed = np.array([[1, 5, 6, 9, 8]])
    before, after = (model.logits(Tape(), t).copy() for t in (tokens, changed))
    assert np.array_equal(before[:3], after[:3])
    assert not np.array_equal(before[3:], after[3:])


def test_pads_change_neither_loss_nor_gradient():
    model, _, grads = make()
    store = random_store(5, seed=6)
    together = pad(store, np.arange(5))
    losses, gradients = [], []
    for shards in ([together], [pad(store, np.array([i])) for i in range(5)]):
        grads[:] = 0
        total = 0.0
        for shard in shards:
            tape = Tape()
            loss = model.loss(tape, shard, together.n_targets)
            tape.backward(loss)
            total += float(loss.data[0])
        losses.append(total)
        gradients.append(grads.copy())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-13)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-14)


def test_the_attention_mask_hides_the_future_and_pads():
    mask = attention_mask(np.array([[True, True, False]]), np.dtype(np.float32))
    assert mask.dtype == np.float32
    hidden = -np.inf
    assert mask[:, 0, 0].tolist() == [[0, 0, 0], [hidden, 0, 0], [hidden, hidden, hidden]]


def test_a_fresh_model_knows_nothing():
    model, _, _ = make(LOCKED, np.float32)
    store = random_store(16, seed=7, vocab_size=64, longest=33)
    nll = token_nll(model, store)
    assert len(nll) == (store.lengths - 1).sum()
    assert abs(nll.mean() - math.log(64)) < 0.5


def test_token_nll_is_the_loss_whatever_the_batch_size():
    model, _, _ = make()
    store = random_store(9, seed=8)
    shard = pad(store, np.arange(9))
    loss = float(model.loss(Tape(), shard, shard.n_targets).data[0])
    for batch_size in (1, 4, 32):
        nll = token_nll(model, store, batch_size=batch_size)
        np.testing.assert_allclose(nll.mean(), loss, rtol=1e-12)
        assert perplexity(nll) == pytest.approx(math.exp(loss))
    assert perplexity(1000.0) == math.inf  # and no warning


def test_dropout_drops_the_right_share_and_keeps_the_mean():
    def draw(p, shape):
        return Dropout(0, 0, 0, np.random.Generator(np.random.SFC64(0))).mask(p, shape, np.dtype(np.float32))

    mask = draw(0.3, (401, 501))
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((mask == 0).mean() - 0.3) < 0.005
    assert abs(mask.mean() - 1) < 0.005
    assert draw(0.0, (2, 2)) is None
    assert draw(0.5, (1,)).shape == (1,)


def test_dropout_drops_independently_at_every_place():
    dropout = Dropout(0, 0.2, 0.4, np.random.Generator(np.random.SFC64(1)))
    blocks = dropout.block_masks(2, attention=(5, 6, 7, 8), residual=(300, 8), dtype=np.dtype(np.float32))
    assert [masks.attention.shape for masks in blocks] == [(5, 6, 7, 8)] * 2
    residuals = [masks.after_attention for masks in blocks] + [masks.after_ffn for masks in blocks]
    dropped = np.array([(mask == 0).ravel() for mask in residuals], dtype=float)
    assert np.abs(dropped.mean(axis=1) - 0.2).max() < 0.03
    correlation = np.corrcoef(dropped)
    assert np.abs(correlation - np.eye(4)).max() < 0.1
    assert abs((blocks[0].attention == 0).mean() - 0.4) < 0.04
    assert not np.array_equal(blocks[0].attention, blocks[1].attention)


def test_microshards_split_the_batch_by_length():
    store = random_store(11, seed=9)
    shards = make_microshards(store, np.arange(11), 3)
    assert sum(len(shard.tokens) for shard in shards) == 11
    widths = [shard.tokens.shape[1] for shard in shards]
    assert widths == sorted(widths, reverse=True)
    assert all(shard.loss_mask.any(axis=0).all() for shard in shards)  # no column is all padding


def test_microshards_cost_about_the_same_however_lengths_differ():
    """A row is at most a tenth of the work. Cut by rows, one part would have six times the tokens of the other."""
    lengths = np.repeat([33, 6], [16, 16])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ones = np.ones(offsets[-1], np.uint16)
    store = TokenStore(ones, offsets, np.arange(32, dtype=np.int32), np.zeros(32, np.uint8))
    first, second = make_microshards(store, np.arange(32), 2)
    assert 0.75 < first.n_targets / second.n_targets < 1.25
