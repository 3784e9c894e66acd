"""AdamW, clipping and the schedule against plain formulas."""

import math

import numpy as np
import pytest
from conftest import TINY_TRAIN  # betas 0.9 and 0.95, eps 1e-8, decay 0.1

from minitrain.minitorch.optim import clip_by_global_norm, new_optimizer
from minitrain.minitorch.schedule import Schedule, Scheduler


def test_adamw_is_algorithm_2_of_the_paper():
    n = 40
    weights, is_matrix = np.linspace(-1, 1, n), np.arange(n) % 2.0
    expected, m, v = weights.copy(), np.zeros(n), np.zeros(n)
    optimizer = new_optimizer(TINY_TRAIN, weights, is_matrix)
    for t, g in enumerate(np.random.Generator(np.random.PCG64(0)).normal(size=(25, n)), start=1):
        optimizer.update(weights, g, 0.01)
        m = 0.9 * m + 0.1 * g
        v = 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.95**t)
        expected = expected - 0.01 * (m_hat / (np.sqrt(v_hat) + 1e-8) + 0.1 * is_matrix * expected)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    np.testing.assert_allclose(optimizer.m, m, rtol=1e-12)
    np.testing.assert_allclose(optimizer.v, v, rtol=1e-12)
    assert optimizer.t == 25


@pytest.mark.parametrize(
    ("max_norm", "clipped"), [(1.0, [0.6, 0.8]), (4.0, [2.4, 3.2]), (5.0, [3.0, 4.0]), (9.0, [3.0, 4.0])]
)
def test_clipping_scales_to_the_norm_and_returns_the_one_before(max_norm, clipped):
    grads = np.array([3.0, 4.0], np.float32)
    assert clip_by_global_norm(grads, max_norm) == 5.0
    assert np.array_equal(grads, np.array(clipped, np.float32))


@pytest.mark.parametrize(
    ("warmup_steps", "steps", "step", "lr"),
    [
        (100, 2000, 0, 3e-5),  # the first step of a hundred up
        (100, 2000, 49, 1.5e-3),
        (100, 2000, 99, 3e-3),
        (100, 2000, 100, 3e-3),
        (100, 2000, 575, 3e-4 + 2.7e-3 * (2 + math.sqrt(2)) / 4),  # a quarter of half a cosine down
        (100, 2000, 1050, 1.65e-3),
        (100, 2000, 2000, 3e-4),
        (100, 2000, 9999, 3e-4),
        (0, 10, 0, 3e-3),
        (100, 10, 5, 1.8e-4),  # shorter than its warm-up
        (10, 10, 10, 3e-3),
    ],
)
def test_the_learning_rate_warms_up_and_comes_down(warmup_steps, steps, step, lr):
    assert Schedule(3e-3, 3e-4, warmup_steps, steps).lr_at(step) == pytest.approx(lr, rel=1e-12)


def test_the_scheduler_gives_the_rate_of_its_step():
    shape = Schedule(3e-3, 3e-4, 100, 2000)
    for step in (0, 7, 1234):
        assert Scheduler(step, shape).lr() == shape.lr_at(step)
