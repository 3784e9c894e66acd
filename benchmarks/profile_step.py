"""Where the time of a training step goes: ``make profile``.

Times every operation of the table, forward and backward, on the canonical batches, one microshard after
the other on one thread; batches, clipping, AdamW and the average of the weights, some 4 % of a step, come on
top. Beside each stands its own limit: the time of its matrix products at the rate of
sgemm, or of reading its inputs and writing its results once at the rate of a copy, whichever is longer -
both measured in the same run, on the same thread.
"""

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.batches import DataIterator
from minitrain.dataset.read import read_dataset
from minitrain.minitorch import ops, sequence_ops
from minitrain.minitorch.tape import Op, Tape
from minitrain.model import Dropout, MiniGPT
from minitrain.params import read_params
from minitrain.training.state import initial_state

WARM_UP, STEPS = 20, 200


class Tally:
    """Seconds, operations and bytes by name, over all steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.flops: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)
        self.step: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any], flops: Callable[..., float]) -> Callable[..., Any]:
        """``function`` with everything about it written down."""

        def run(*args: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **settings)
            self.step[name] += time.perf_counter() - start
            self.flops[name] += flops(*args, **settings)
            results = result[:1] if name.endswith("forward") else result  # forward also returns what it saved
            self.bytes[name] += sum(array.nbytes for array in _arrays((*args, *settings.values(), *results)))
            return result

        return run

    def end_step(self) -> None:
        """Close the account of one step."""
        for name, seconds in self.step.items():
            self.seconds[name].append(seconds)
        self.step.clear()


def _arrays(values: Iterable[Any]) -> Iterable[np.ndarray]:
    return (value for value in values if isinstance(value, np.ndarray))


def _no_products(*_: Any, **__: Any) -> float:
    return 0.0


def _attention_flops(qkv: np.ndarray, *_: Any, **__: Any) -> float:
    B, T, width = qkv.shape
    return float(4 * B * T * T * (width // 3))


def _attention_backward_flops(dout: np.ndarray, *_: Any) -> float:
    B, T, C = dout.shape
    return float(8 * B * T * T * C)


# Floating-point operations of the matrix products, forward and backward.
PRODUCTS: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "linear": (
        lambda x, weight, *_: 2 * len(x) * weight.size,
        lambda dout, x, weight, *_: 4 * len(x) * weight.size,
    ),
    "tied_cross_entropy": (
        lambda hidden, weight, **_: 2 * len(hidden) * weight.size,
        lambda dout, hidden, weight, *_: 4 * len(hidden) * weight.size,
    ),
    "attention": (_attention_flops, _attention_backward_flops),
    "embedding": (_no_products, lambda dout, tokens, vocab_size: 2 * dout.size * vocab_size),
}


def rate(work: float, function: Callable[[], Any]) -> float:
    """How much work a second ``function`` does, at its best of many calls."""
    best = math.inf
    for _ in range(30):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return work / best


def main() -> None:
    tally = Tally()
    modules = {name: module for module in (ops, sequence_ops) for name in vars(module)}
    for name, module in modules.items():
        op = getattr(module, name)
        if isinstance(op, Op):
            forward, backward = PRODUCTS.get(name, (_no_products, _no_products))
            instrumented = dataclasses.replace(
                op,
                forward=tally.timed(f"{name} forward", op.forward, forward),
                backward=tally.timed(f"{name} backward", op.backward, backward),
            )
            setattr(module, name, instrumented)

    params = read_params()
    train, store = params.train, read_dataset(BATCHES, params.model).stores["train"]
    weights = initial_state(params.model, train).model.weights
    model = MiniGPT.with_weights(params.model, weights, np.zeros_like(weights))
    total, data, rng = [], DataIterator(train.seed), np.random.Generator(np.random.SFC64(0))
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            for account in (tally.seconds, tally.flops, tally.bytes):
                account.clear()
        shards = data.next_batch(store, train.batch_size, train.microshards)
        n_targets = sum(shard.n_targets for shard in shards)
        start = time.perf_counter()
        for shard in shards:
            tape = Tape()
            dropout = Dropout(train.embed_dropout, train.residual_dropout, train.attention_dropout, rng)
            tape.backward(model.loss(tape, shard, n_targets, dropout))
        total.append(time.perf_counter() - start)
        tally.end_step()

    a = np.ones((768, 768), np.float32)
    out = np.empty_like(a)
    sgemm = rate(2 * 768**3, lambda: np.matmul(a, a, out=out))
    some, copy = np.ones(1 << 16, np.float32), np.empty(1 << 16, np.float32)
    copying = rate(2 * some.nbytes, lambda: np.copyto(copy, some))

    whole = float(np.median(total[WARM_UP:]))
    print(f"one step of {train.microshards} microshards on one thread: {1e3 * whole:.2f} ms (median of {STEPS})")
    print(f"sgemm {sgemm / 1e9:.0f} GFLOP/s, copy {copying / 1e9:.0f} GB/s\n")
    print(f"{'':30s}{'ms':>8s}{'share':>8s}{'limit ms':>10s}{'of limit':>10s}")
    medians = {name: float(np.median(values)) for name, values in tally.seconds.items()}
    for name, seconds in sorted(medians.items(), key=lambda item: -item[1]):
        limit = max(tally.flops[name] / sgemm, tally.bytes[name] / copying) / STEPS
        print(f"{name:30s}{1e3 * seconds:8.3f}{seconds / whole:8.1%}{1e3 * limit:10.3f}{limit / seconds:10.0%}")
    rest = whole - sum(medians.values())
    print(f"{'dropout masks, tape, Python':30s}{1e3 * rest:8.3f}{rest / whole:8.1%}")


if __name__ == "__main__":
    run_command(main)
