"""AdamW, clipping and the schedule: equal to a plain reference, equal in bits twice, and it does converge."""

import math

import numpy as np
import pytest
from conftest import TINY_TRAIN  # betas 0.9 and 0.95, eps 1e-8, decay 0.1

from minitrain.minitorch.optim import AdamW, clip_by_global_norm, new_optimizer
from minitrain.minitorch.schedule import Schedule, Scheduler


def gradients(n_steps, n, dtype):
    rng = np.random.Generator(np.random.PCG64(0))
    return [rng.normal(size=n).astype(dtype) for _ in range(n_steps)]


def run_adamw(dtype, n_steps=25, n=40):
    weights = np.linspace(-1, 1, n).astype(dtype)
    optimizer = new_optimizer(TINY_TRAIN, weights, np.arange(n, dtype=dtype) % 2)
    for grads in gradients(n_steps, n, dtype):
        optimizer.update(weights, grads, 0.01)
    return weights, optimizer


def test_adamw_is_algorithm_2_of_the_paper():
    weights, optimizer = run_adamw(np.float64)
    n = len(weights)
    expected, m, v = np.linspace(-1, 1, n), np.zeros(n), np.zeros(n)
    decay = np.where(np.arange(n) % 2, 0.1, 0.0)
    for t, g in enumerate(gradients(25, n, np.float64), start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.95**t)
        expected = expected - 0.01 * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay * expected)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    np.testing.assert_allclose(optimizer.m, m, rtol=1e-12)
    np.testing.assert_allclose(optimizer.v, v, rtol=1e-12)
    assert optimizer.t == 25


def test_two_runs_are_equal_in_bits_and_stay_in_float32():
    (first, _), (second, optimizer) = run_adamw(np.float32), run_adamw(np.float32)
    assert first.tobytes() == second.tobytes()
    assert first.dtype == optimizer.m.dtype == optimizer.v.dtype == np.float32


def test_adamw_converges():
    target = np.linspace(-2, 2, 10)
    weights = np.zeros(10)
    optimizer = AdamW(np.zeros(10), np.zeros(10), 0, TINY_TRAIN, np.zeros(10))
    for _ in range(800):
        optimizer.update(weights, 2 * (weights - target), 0.02)
    np.testing.assert_allclose(weights, target, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_scales_to_the_norm_and_reports_the_one_before(dtype):
    grads = np.array([3.0, 4.0], dtype)
    assert clip_by_global_norm(grads, 1.0) == 5.0
    np.testing.assert_allclose(grads, [0.6, 0.8], rtol=1e-6)
    small = np.array([0.3, 0.4], dtype)
    before = small.tobytes()
    assert clip_by_global_norm(small, 1.0) == pytest.approx(0.5)
    assert small.tobytes() == before


def test_schedule_warms_up_and_comes_down():
    schedule = Schedule(lr=3e-3, lr_final=3e-4, warmup_steps=100, steps=2000)
    assert schedule.lr_at(0) == pytest.approx(3e-5)
    assert schedule.lr_at(99) == schedule.lr_at(100) == 3e-3
    assert schedule.lr_at(1050) == pytest.approx((3e-3 + 3e-4) / 2)
    assert schedule.lr_at(2000) == schedule.lr_at(9999) == pytest.approx(3e-4)
    rates = [schedule.lr_at(step) for step in range(2001)]
    assert all(a < b for a, b in zip(rates[:99], rates[1:100], strict=True))
    assert all(a > b for a, b in zip(rates[100:-1], rates[101:], strict=True))


def test_schedule_without_warmup_or_shorter_than_it():
    assert Schedule(1.0, 0.1, 0, 10).lr_at(0) == 1.0
    assert math.isclose(Schedule(1.0, 0.1, 100, 10).lr_at(5), 0.06)
    assert Schedule(1.0, 0.1, 10, 10).lr_at(10) == 1.0


def test_the_scheduler_gives_the_rate_of_its_step_in_float32():
    shape = Schedule(3e-3, 3e-4, 100, 2000)
    scheduler = Scheduler(0, shape)
    for scheduler.step in (0, 7, 1234):
        exact = shape.lr_at(scheduler.step)
        assert scheduler.lr() == float(np.float32(exact)) != exact
