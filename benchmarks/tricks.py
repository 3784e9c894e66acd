"""What each trick of the fast code gains: ``python -m benchmarks.tricks`` fills the table of docs/course/tricks.md.

Each trick is taken away from a copy of the project by a change of its text. Loss and gradients of the first batch must
stay the same; then all copies and the fast code take turns.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.compare import OURS, ROUNDS, STEPS_A_ROUND, WAKE_UP, WARM_UP, check_agreement
from benchmarks.machine import commit, machine
from benchmarks.worker import Worker
from benchmarks.workload import Work
from minitrain.base import files
from minitrain.base.errors import UserError
from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params

PAGE = Path("docs/course/tricks.md")
CONTROL = "nothing"  # an unchanged copy: how far from 1 it comes out is noise

# For each trick: a file, what it says, and what it says without the trick.
WITHOUT = {
    CONTROL: [],
    "rows without padding": [
        ("model.py", "shard.tokens, shard.loss_mask, dropout", "shard.tokens, np.ones_like(shard.loss_mask), dropout"),
        ("model.py", "shard.targets[shard.loss_mask]", "shard.targets.ravel()"),
        ("minitorch/ops.py", "total(log(sums) - target_logits)", "total((log(sums) - target_logits) * (targets != 0))"),
        ("minitorch/ops.py", "dlogits = rounded(dlogits)", "dlogits = rounded(dlogits * (targets != 0))"),
    ],
    "batches sorted by length": [
        ("dataset/batches.py", 'order = np.argsort(-lengths, kind="stable")', "order = np.arange(len(ids))"),
    ],
    "scores with the key in front": [
        (
            "minitorch/sequence_ops.py",
            "scores = np.empty((T, B, n_heads, T), qkv.dtype)",
            "scores = np.empty((B, n_heads, T, T), qkv.dtype).transpose(3, 0, 1, 2)",
        ),
        ("model.py", "(T, B, H, T), x.data.shape", "(B, H, T, T), x.data.shape"),
        ("model.py", "else attentions[block],", "else attentions[block].transpose(3, 0, 1, 2),"),
    ],
    "scale inside RoPE": [
        ("minitorch/sequence_ops.py", "table / math.sqrt(head_size), table", "table, table"),
        ("minitorch/sequence_ops.py", "scores += mask", "scores /= math.sqrt(q.shape[3]); scores += mask"),
        ("minitorch/sequence_ops.py", "dscores *= probs", "dscores *= probs; dscores /= math.sqrt(D)"),
    ],
    "one product for q, k and v": [
        ("model.py", "import Parameter, Tape, Tensor", "import Op, Parameter, Tape, Tensor"),
        ("model.py", "ops.linear(tape, x, self._qkv)", "beside(tape, *(m(tape, x) for m in (self.q, self.k, self.v)))"),
        (
            "model.py",
            "ROPE_BASE = 10000.0",
            "ROPE_BASE = 10000.0\n"
            "beside = Op(lambda *parts: (np.hstack(parts), ()), lambda dout: tuple(np.hsplit(dout, 3)))",
        ),
    ],
    "sums as products": [
        (
            "minitorch/ops.py",
            "one_hot = (tokens == np.arange(vocab_size)[:, None]).astype(dout.dtype)  # (V, N)",
            "dweight = np.zeros((vocab_size, dout.shape[1]), dout.dtype); np.add.at(dweight, tokens, dout)",
        ),
        ("minitorch/ops.py", "return (matmul(one_hot, rounded(dout)),)", "return (dweight,)"),
    ],
    "dropout and residual in one": [
        (
            "model.py",
            "ops.residual(tape, x, attended, dropout_mask=masks.after_attention)",
            "ops.residual(tape, x, dropped(tape, attended, masks.after_attention))",
        ),
        (
            "model.py",
            "ops.residual(tape, x, self.ffn(tape, self.ln2(tape, x)), dropout_mask=masks.after_ffn)",
            "ops.residual(tape, x, dropped(tape, self.ffn(tape, self.ln2(tape, x)), masks.after_ffn))",
        ),
        (
            "model.py",
            "ROPE_BASE = 10000.0",
            "ROPE_BASE = 10000.0\n"
            "def dropped(tape, x, mask): return x if mask is None else ops.dropout(tape, x, dropout_mask=mask)",
        ),
    ],
    "dropout from 16 bits": [
        (
            "model.py",
            "self.rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size].reshape(shape)",
            "self.rng.random(shape)",
        ),
        ("model.py", "bits >= round(p * 2**16)", "bits >= p"),
    ],
    "AdamW rearranged": [
        ("minitorch/optim.py", "rate = lr / (1 - power", "m_hat = self.m / (1 - power"),
        ("minitorch/optim.py", "scaled = np.sqrt(self.v)", "v_hat = self.v / dtype(1 - power(self._beta2, self.t))"),
        ("minitorch/optim.py", "scaled *= dtype(1 / (rate * math.sqrt(1 - power(self._beta2, self.t))))", ""),
        ("minitorch/optim.py", "scaled += dtype(self._eps / rate)", ""),
        ("minitorch/optim.py", "weights -= self.m / scaled", "weights -= lr * (m_hat / (np.sqrt(v_hat) + self._eps))"),
    ],
    "two threads": [
        (
            "loop.py",
            "others = [pool.submit(forward_backward, index) for index in range(1, len(batch))]",
            "others = range(1, len(batch))",
        ),
        ("loop.py", "other.result() for other in others", "forward_backward(index) for index in others"),
    ],
    "exact arithmetic": [],
    "all at once, in float64": [],
}
CONTENDERS = {"exact arithmetic": "numpy-native", "all at once, in float64": "plain"}  # of the others: OURS


def copy_without(trick: str, folder: Path) -> None:
    """The code of the project in a new ``folder``, without the trick. UserError when its text is not there, once."""
    for package in ("minitrain", "benchmarks", "course"):
        shutil.copytree(package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in WITHOUT[trick]:
        path = folder / "minitrain" / name
        if (count := path.read_text().count(old)) != 1:
            raise UserError(
                f"minitrain/{name}: expected once, as benchmarks/tricks.py says: {old!r}; got it {count} times."
            )
        path.write_text(path.read_text().replace(old, new))


def ratios(work: Work) -> dict[str, float]:
    """By trick, the time of a step without it over that of the fast step: medians over all rounds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work.save(folder)
        workers = {OURS: Worker(OURS, folder)}
        for number, trick in enumerate(WITHOUT):
            copy_without(trick, folder / str(number))
            with contextlib.chdir(folder / str(number)):
                workers[trick] = Worker(CONTENDERS.get(trick, OURS), folder)
        check_agreement({name.replace(" ", "-"): worker for name, worker in workers.items()}, folder)
        for worker in workers.values():
            worker.ask(f"steps {WARM_UP}")
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(ROUNDS):
            for name, worker in workers.items():
                seconds[name] += worker.ask(f"steps {WAKE_UP + STEPS_A_ROUND}")[WAKE_UP:]
        for worker in workers.values():
            worker.stop()
    return {trick: float(np.median(seconds[trick]) / np.median(seconds[OURS])) for trick in WITHOUT}


def filled(page: str, cells: dict[str, str]) -> str:
    """The page with a new last cell in each row of its table whose first cell is a key of ``cells``."""
    lines = []
    for line in page.splitlines():
        trick = line.split("|")[1].strip() if line.startswith("|") else ""
        lines.append(f"{line.rpartition(' | ')[0]} | {cells[trick]} |" if trick in cells else line)
    return "\n".join(lines) + "\n"


def main() -> None:
    params = read_params()
    measured = ratios(Work(params.model, params.train, read_dataset(BATCHES, params.model).stores["train"]))
    page, _, _ = PAGE.read_text().partition("\nMeasured ")
    note = (
        f"\nMeasured on {machine()}, at commit {commit()}: {ROUNDS * STEPS_A_ROUND} steps each, in turn; medians. An "
        f"unchanged copy came out at {measured[CONTROL]:.2f} x.\n"
    )
    cells = {trick: f"{ratio:.2f} x" for trick, ratio in measured.items()}
    files.write_bytes(PAGE, (filled(page, cells) + note).encode())


if __name__ == "__main__":
    run_command(main)
