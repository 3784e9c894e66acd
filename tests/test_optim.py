"""AdamW against the plain twin; clipping and the schedule against plain formulas."""

import math

import numpy as np
import pytest
from conftest import TINY_TRAIN  # betas 0.9 and 0.95, eps 1e-8, decay 0.1

from course.plain import adamw
from minitrain.minitorch.optim import clip_by_global_norm, new_optimizer
from minitrain.minitorch.schedule import Schedule, Scheduler


def test_adamw_is_algorithm_2_of_the_paper():
    matrix, vector = np.linspace(-1, 1, 40).reshape(8, 5), np.linspace(-1, 1, 7)  # a vector does not decay
    weights, is_matrix = np.concatenate([matrix.ravel(), vector]), np.repeat([1.0, 0.0], [40, 7])
    optimizer = new_optimizer(TINY_TRAIN, weights, is_matrix)
    of_matrix, of_vector = (matrix, 0.0, 0.0), (vector, 0.0, 0.0)  # theta, m, v
    for t, g in enumerate(np.random.Generator(np.random.PCG64(0)).normal(size=(25, 47)), start=1):
        optimizer.update(weights, g, 0.01)
        of_matrix = adamw(of_matrix[0], g[:40].reshape(8, 5), *of_matrix[1:], 0.01, t, TINY_TRAIN)
        of_vector = adamw(of_vector[0], g[40:], *of_vector[1:], 0.01, t, TINY_TRAIN)
    for got, *expected in zip((weights, optimizer.m, optimizer.v), of_matrix, of_vector, strict=True):
        np.testing.assert_allclose(got, np.concatenate(expected, axis=None), rtol=1e-12)
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
        (100, 2000, 1999, 3e-4 + 2.7e-3 * (1 - math.cos(math.pi / 1900)) / 2),  # the last step: almost there
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
