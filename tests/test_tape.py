"""The tape: order, accumulation, depth, reuse."""

import numpy as np

from minitrain.minitorch import ops
from minitrain.minitorch.tape import Parameter, Tape, Tensor


def test_a_tensor_used_twice_gets_both_gradients():
    tape, x = Tape(), Tensor(np.ones((2, 3)))
    output = ops.residual(tape, x, ops.residual(tape, x, x))
    tape.backward(output)
    assert np.array_equal(x.grad, np.full((2, 3), 3.0))


def test_one_array_handed_to_two_inputs_is_not_changed_in_place():
    """residual gives the same dout to both inputs; adding to one of them must not change the other."""
    tape, x, y = Tape(), Tensor(np.ones((1, 2))), Tensor(np.ones((1, 2)))
    inner = ops.residual(tape, x, y)
    output = ops.residual(tape, inner, x)
    tape.backward(output)
    assert np.array_equal(x.grad, [[2.0, 2.0]])
    assert np.array_equal(y.grad, [[1.0, 1.0]])


def test_parameters_accumulate_into_their_view():
    weights, grads = np.arange(4.0), np.full(4, 10.0)
    parameter = Parameter(2, 2)
    parameter.bind(weights, grads)
    tape = Tape()
    tape.backward(ops.residual(tape, parameter, parameter))
    assert np.array_equal(grads, np.full(4, 12.0))


def test_what_the_output_does_not_depend_on_gets_no_gradient():
    tape, x, unrelated = Tape(), Tensor(np.ones((1, 2))), Tensor(np.ones((1, 2)))
    output = ops.gelu(tape, x)
    ops.gelu(tape, unrelated)
    tape.backward(output)
    assert x.grad is not None
    assert unrelated.grad is None


def test_a_chain_of_any_depth_needs_no_recursion():
    tape, x = Tape(), Tensor(np.ones((1, 1)))
    y = x
    for _ in range(20_000):
        y = ops.residual(tape, y, x)
    tape.backward(y)
    assert x.grad[0, 0] == 20_001


def test_without_recording_there_are_no_records():
    tape = Tape(recording=False)
    ops.gelu(tape, Tensor(np.ones((1, 2))))
    assert tape.records == []


def test_rounding_applies_to_every_result():
    tape = Tape(recording=False, rounding=np.round)
    out = ops.residual(tape, Tensor(np.full((1, 1), 0.4)), Tensor(np.full((1, 1), 0.3)))
    assert out.data[0, 0] == 1.0


def test_backward_uses_up_the_records():
    tape, x = Tape(), Tensor(np.ones((1, 2)))
    output = ops.gelu(tape, ops.gelu(tape, x))
    assert len(tape.records) == 2
    tape.backward(output)
    assert tape.records == []
    assert output.grad is None
