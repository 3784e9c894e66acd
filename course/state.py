"""Writes ``docs/course/state.md``: ``python -m course.state``; with ``--check`` it fails when the page is stale.

Every tensor of a checkpoint is lost once: the run of ``course/short_run.py`` goes on from step 45 with the value of a
new run in its place, and its losses and last state are compared with those of the run that lost nothing.
"""

import argparse
import dataclasses

from course.reasons import ROOT
from course.short_run import short
from minitrain.base import UserError, files, process, tensors
from minitrain.base.layout import BATCHES
from minitrain.dataset.read import Dataset, read_dataset
from minitrain.loop import Step, train
from minitrain.minitorch import arithmetic
from minitrain.params import Params, read_params
from minitrain.training import checkpoint
from minitrain.training.state import TrainState, initial_state

PAGE = ROOT / "docs" / "course" / "state.md"
SAVED_AT = 45

# path, what it holds, who changes it, who reads it
ROWS = (
    ("model.weights", "the weights", "`AdamW.update`", "the forward pass"),
    ("model.ema", "their running average", "`ModelState.update_average`", "`evaluate`, the export"),
    ("optimizer.m", "running average of the gradients", "`AdamW.update`", "`AdamW.update`"),
    ("optimizer.v", "running average of their squares", "`AdamW.update`", "`AdamW.update`"),
    ("optimizer.t", "steps taken", "`AdamW.update`", "bias correction in `AdamW.update`"),
    ("scheduler.step", "steps taken", "`train`", "`Scheduler.lr`, `train`: what is due"),
    ("scheduler.shape", "the four numbers of the schedule", "nobody", "`Schedule.lr_at`"),
    ("data.seed", "seed of the order", "nobody", "`_epoch_order`"),
    ("data.epoch", "how often all was seen", "`DataIterator.next_ids`", "`_epoch_order`"),
    ("data.position", "place in this epoch's order", "`DataIterator.next_ids`", "`DataIterator.next_ids`"),
    ("rng.state", "place in the stream of random numbers", "`loss_and_grads`", "`loss_and_grads`: dropout's seeds"),
    ("best.step", "step of the best evaluation", "`evaluate`", "the manifest"),
    ("best.loss", "its loss", "`evaluate`", "`evaluate`: is it better?"),
    ("best.weights", "the average at that step", "`evaluate`", "the export"),
    ("log.steps", "loss, rate and norm of each step", "`train`", "tables, MLflow"),
    ("log.evaluations", "step and loss of each evaluation", "`evaluate`", "tables, `evaluation_is_due`"),
)

BEGIN = f"""# The state of a run

<!-- Written by `python -m course.state`. -->

A training run is five state machines. `TrainState` holds them, and a checkpoint is all their numbers. Each step moves
all five:

```
 data ------- which sequences ------+
 epoch, position                    v
                            forward, backward ----> gradients
 rng -------- seeds of dropout -----^   ^               |
                                        |               v
 model.weights -------------------------+           optimizer
      ^   |                                          m, v, t
      |   +---> model.ema ---> best                     |
      |                                                 |
      +------------------- update <--- rate ------------+
                                         ^
 scheduler: step, shape ----------------+
```

What if one number is not saved? Here every tensor of a checkpoint is lost once. A run of 60 steps goes on from its
checkpoint of step {SAVED_AT}; the lost tensor has the value with which a new run, of another seed and rate, begins.
"First difference" is the first step whose loss differs, and by how much. Where no loss differs, it says what else is
different at the end. Most of these differences are too small to be seen in a curve; a comparison of bytes finds them.

| tensor | holds | changed by | read by | when it is lost: first difference |
|---|---|---|---|---|
"""

END = """
`best` and `log` are no state machines: no later loss depends on them. But without them another model is exported, or
the tables have a gap. The test `tests/test_loop.py::test_losing_any_part_of_the_state_changes_the_bytes` loses every
tensor in the same way, and `make prove-kills` does it with a real kill.
"""


def go_on(state: TrainState, params: Params, dataset: Dataset) -> tuple[list[float], tensors.Tensors]:
    """The loss of each step to the end of the run, and the last state."""
    events = train(state, dataset.stores["train"], dataset.stores["val"], params.model, params.train)
    losses = [event.loss for event in events if isinstance(event, Step)]
    return losses, checkpoint.state_tensors(state)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.state")
    parser.add_argument("--check", action="store_true", help="only fail when the page is not what it should be")
    only_check = parser.parse_args().check
    params = short(read_params())
    arithmetic.use(params.model.arithmetic)
    dataset = read_dataset(BATCHES, params.model)

    state = initial_state(params.model, params.train)
    for _ in train(state, dataset.stores["train"], dataset.stores["val"], params.model, params.train):
        if state.step == SAVED_AT:
            break
    saved = checkpoint.state_tensors(state)
    saved = {path: array.copy() for path, array in saved.items()}  # the state goes on changing
    losses, last = go_on(state, params, dataset)

    other = dataclasses.replace(params.train, seed=params.train.seed + 1, lr=params.train.lr / 2)
    new_run = checkpoint.state_tensors(initial_state(params.model, other))

    def without(path: str) -> str:
        """In words, what differs when the run goes on without a tensor."""
        data = tensors.encode_tensors({**saved, path: new_run[path]})
        try:  # a check may notice
            resumed = checkpoint.decode_state(data, "the checkpoint", params.model, params.train)
            other_losses, other_last = go_on(resumed, params, dataset)
        except UserError as error:
            return f"stops: {str(error).partition(', as')[0]}"
        for step, (loss, other_loss) in enumerate(zip(losses, other_losses, strict=False), SAVED_AT):
            if loss != other_loss:
                return f"step {step}: {abs(other_loss - loss):.2g}"
        different = [name for name, array in last.items() if array.tobytes() != other_last[name].tobytes()]
        return (
            f"no loss; at the end `{'`, `'.join(different)}`"
            if different
            else "nothing: the last evaluation was better"
        )

    rows = [f"| `{row[0]}` | {' | '.join(row[1:])} | {without(row[0])} |\n" for row in ROWS]
    text = (BEGIN + "".join(rows) + END).encode()
    if not only_check:
        files.write_bytes(PAGE, text)
    elif PAGE.read_bytes() != text:
        raise UserError(f"{PAGE.relative_to(ROOT)} is stale. Write it again: python -m course.state")


if __name__ == "__main__":
    process.run_command(main)
