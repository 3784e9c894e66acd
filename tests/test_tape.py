"""The tape: accumulation, what gets a gradient, reuse, rounding."""

import numpy as np

from minitrain.minitorch import ops
from minitrain.minitorch.tape import Parameter, Tape, Tensor


def test_a_tensor_used_twice_gets_both_gradients_and_no_other_tensor_gets_them():
    """residual gives one array to both of its inputs: adding to the gradient of one must not change the other's."""
    tape, x, y = Tape(), Tensor(np.ones((1, 2))), Tensor(np.ones((1, 2)))
    tape.backward(ops.residual(tape, ops.residual(tape, x, y), x))
    assert np.array_equal(x.grad, [[2.0, 2.0]])
    assert np.array_equal(y.grad, [[1.0, 1.0]])


def test_parameters_accumulate_into_their_view():
    weights, grads = np.arange(4.0), np.full(4, 10.0)
    parameter = Parameter(2, 2)
    parameter.bind(weights, grads)
    tape = Tape()
    tape.backward(ops.residual(tape, parameter, parameter))
    assert np.array_equal(grads, np.full(4, 12.0))


def test_only_what_the_output_depends_on_gets_a_gradient_and_only_leaves_keep_theirs():
    tape, x, unrelated = Tape(), Tensor(np.ones((1, 2))), Tensor(np.ones((1, 2)))
    output = ops.gelu(tape, x)
    ops.gelu(tape, unrelated)
    tape.backward(output)
    assert x.grad is not None
    assert unrelated.grad is None
    assert output.grad is None


def test_backward_uses_up_the_records_and_without_recording_there_are_none():
    for tape, n_records in ((Tape(), 2), (Tape(recording=False), 0)):
        output = ops.gelu(tape, ops.gelu(tape, Tensor(np.ones((1, 2)))))
        assert len(tape.records) == n_records
        tape.backward(output)
        assert tape.records == []


def test_rounding_applies_to_every_result():
    tape = Tape(recording=False, rounding=np.round)
    out = ops.residual(tape, Tensor(np.full((1, 1), 0.4)), Tensor(np.full((1, 1), 0.3)))
    assert out.data[0, 0] == 1.0
