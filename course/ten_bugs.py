"""The ten bugs that ``course/bugs.py`` puts into the code: what is changed, what it does, how to recognise it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One lesson. ``curve`` is one of course/bug_run.py, ``scale`` one of course/bugs.py."""

    title: str
    what: str  # is wrong, and what comes of it here
    change: str  # of the code: names of files, and their lines: "- " right, "+ " wrong, "  " where wrong ones follow
    recognise: str  # it in your own training
    check: str  # the test that catches it
    curve: str
    scale: str = "linear"

    @property
    def name(self) -> str:
        """Its title as a part of a file's name."""
        return self.title.lower().replace(" ", "-")


BUGS = (
    Bug(
        "Pads in the loss",
        """\
The loss is the mean over all positions of the rectangle, pads too, instead of over the real targets. After a pad
comes a pad, which is soon learnt: the training loss looks better than it is, while the validation, which counts
right, gets worse, because a part of every gradient is spent on pads.""",
        """\
minitrain/model.py
- *_, (_, hidden) = self.layers(tape, shard.tokens, shard.loss_mask, dropout)
+ *_, (_, hidden) = self.layers(tape, shard.tokens, np.ones_like(shard.loss_mask), dropout)
- targets = shard.targets[shard.loss_mask]  # (N,)
+ targets = shard.targets.ravel()  # (B * T,)
minitrain/dataset/batches.py
- return int(np.count_nonzero(self.loss_mask))
+ return self.loss_mask.size
""",
        """\
Pad the same sequences to twice the length: the loss must stay the same, and with this bug it changes. Another sign
is a loss that depends on which sequences share a batch.""",
        "tests/test_model.py::test_pads_change_neither_loss_nor_gradient",
        "training loss",
    ),
    Bug(
        "Pads as keys",
        """\
The mask of attention forgets the pads. As long as pads follow the sequence and the mask is causal, as here, this is
harmless: no real token looks at what comes later, and not one byte changes. The bug sleeps until somebody pads on
the left, as is usual for generation; then every token sees the pads before it. The losses still look right (the
validation loss differs by 0.02 at most), so the picture shows something else: how far the loss of a token moves
when its sentence is scored in a batch and not alone.""",
        """\
minitrain/minitorch/sequence_ops.py
- visible = causal[:, None] & real.T[:, :, None]  # (key, B, query)
+ visible = causal[:, None]  # (key, 1, query)
minitrain/dataset/batches.py
- real = positions < lengths[:, None]  # (B, T + 1)
+ n_pads = lengths.max() - lengths[:, None]  # now on the left
+ real = positions >= n_pads
- rows[real] = store.tokens[(starts[:, None] + positions)[real]]
+ rows[real] = store.tokens[(starts[:, None] + positions - n_pads)[real]]
- loss_mask = real[:, 1:]
+ loss_mask = real[:, :-1]
""",
        """\
Score a sentence alone, then in a batch with a longer one: every token must get the same loss. No curve that is
usually drawn shows this bug, so ask on purpose.""",
        "tests/test_model.py::test_pads_change_neither_loss_nor_gradient",
        "change by neighbours",
    ),
    Bug(
        "Wrong shift",
        """\
The target of a position is the token that stands there, not the next one. The model has only to copy what it reads.
The validation has the same targets, so it looks as good: a perplexity of 1, far below that of the n-grams, and no
stage of the pipeline complains. Nor does the check of the first step: a fresh model knows nothing of copying
either.""",
        """\
minitrain/dataset/batches.py
- return Microshard(tokens=np.where(loss_mask, rows[:, :-1], PAD), targets=rows[:, 1:], loss_mask=loss_mask)
+ return Microshard(tokens=np.where(loss_mask, rows[:, :-1], PAD), targets=rows[:, :-1], loss_mask=loss_mask)
""",
        """\
The loss falls to zero within a few epochs, far below the entropy that any text has. A result that is too good is a
bug until you have shown that it is none: print one row of tokens above its targets.""",
        "tests/test_batches.py::test_padding_targets_and_mask",
        "training loss",
    ),
    Bug(
        "Sum instead of mean",
        """\
The losses of all targets are added, but not divided by their number. Loss and gradient are some 600 times too
large, and grow with the batch. Yet the model learns as well as before: clipping brings each gradient down to length
1, and AdamW does not care about scale. What is lost is clipping itself, which now cuts every step alike, the usual
and the wild one. The check of the first step stops this run at step 0; it was switched off for the picture.""",
        """\
minitrain/model.py
- return ops.tied_cross_entropy(tape, hidden, self.embed.weight, targets=targets, n_targets=n_targets)
+ return ops.tied_cross_entropy(tape, hidden, self.embed.weight, targets=targets, n_targets=1)
""",
        """\
The first loss must be about ln V, here ln 64 = 4.16, whatever the batch size. A gradient norm that is above the
bound of clipping at each and every step says the same.""",
        "tests/test_model.py::test_the_mean_nll_is_the_loss_whatever_the_batch_size",
        "gradient norm",
        "log",
    ),
    Bug(
        "No bias correction",
        """\
AdamW divides its two averages by 1 - beta^t, because they begin at zero. Without that the very first step has 0.45
of its length; from the ninth on steps are up to a tenth too long, and after a hundred nothing is left of it. Under
a warm-up nobody sees that: the loss is 0.02 nats behind at step 8 and 0.01 ahead at step 50; then comes the noise
by which any small change sets two runs apart. With beta2 = 0.999, the usual default, each of the first hundred
steps would be three to seven times too long, and a run without warm-up could break.""",
        """\
minitrain/minitorch/optim.py
- rate = lr / (1 - power(self._beta1, self.t))
+ rate = lr
- scaled *= dtype(1 / (rate * math.sqrt(1 - power(self._beta2, self.t))))
+ scaled *= dtype(1 / rate)
""",
        """\
Take one step and look at how far the weights went: the first step of Adam moves each of them by almost exactly the
learning rate, whatever its gradient. A curve will not tell you; comparing 25 steps with the formulas of the paper
does.""",
        "tests/test_optim.py::test_adamw_is_algorithm_2_of_the_paper",
        "training loss",
        "difference",
    ),
    Bug(
        "L2 instead of weight decay",
        """\
The decay is added to the gradient (L2 regularisation, as in Adam) instead of being taken off the weights (AdamW).
Then it goes through the division by the root of v: a weight with small gradients, where the decay is all there is,
shrinks at the full learning rate. The same 0.1 that was gentle is now so strong that the model cannot learn the
rest.""",
        """\
minitrain/minitorch/optim.py
  dtype = weights.dtype.type
+ grads = grads + self._decay * weights
- weights -= self._decay * weights * dtype(lr)
""",
        """\
The loss stops falling far too high, on training and validation alike, and gets better the smaller you make the
decay. With a small decay it hides: then look at the norm of the weights, which falls quicker than lr * decay
allows.""",
        "tests/test_optim.py::test_adamw_is_algorithm_2_of_the_paper",
        "training loss",
    ),
    Bug(
        "Clipping per tensor",
        """\
Each tensor's gradient is clipped by itself, instead of all of them together. Clipping should shorten the gradient
and keep its direction; this way the direction changes, since only the long tensors get shorter. And the whole may
now be longer than the bound: with 27 tensors, as here, up to five times. In this run no tensor is ever longer than
1, so nothing is clipped at all, and the losses differ by 0.0012 at most. The protection is missing on the day when a
gradient explodes.""",
        """\
minitrain/loop.py
- grad_norm = clip_by_global_norm(grad, config.clip_norm)  # leaves what is not finite to check_step
+ norms = [clip_by_global_norm(part.reshape(-1), config.clip_norm) for part in averaged.views(grad).values()]
+ grad_norm = sum(norm * norm for norm in norms) ** 0.5
""",
        """\
Log the norm of the whole gradient after clipping: no point may lie above the bound. Log how often clipping acts,
too: never, in a long run, is worth a look.""",
        "tests/test_reference.py::test_the_run_is_the_twins[tight clipping]",
        "gradient norm after clipping",
    ),
    Bug(
        "No causal mask",
        """\
Every token sees the whole sequence, so also the next token, which it should predict. At first nothing is to be
seen, because the model must learn to look ahead; then the loss goes where no language model can go. The validation
cheats in the same way, the n-grams are beaten, and no stage of the pipeline complains. Only generation, where there
is nothing ahead, would fail.""",
        """\
minitrain/minitorch/sequence_ops.py
- visible = causal[:, None] & real.T[:, :, None]  # (key, B, query)
+ visible = real.T[:, :, None]  # (key, B, 1)
""",
        """\
Change the last token of a sentence: no logit before it may move. A validation loss near zero, or below the entropy
of the corpus (the floor in plots/baseline-compare), is a leak and no success.""",
        "tests/test_plain.py::test_loss_and_every_gradient_of_the_fast_code_are_those_of_the_twin",
        "validation loss",
        "log",
    ),
    Bug(
        "Data position not restored",
        """\
The checkpoint does not hold where in which epoch the data was. The run resumes at step 150 with the first batch of
the first epoch: until then both runs are equal to the bit, then they see other sentences. Neither loss is worse,
for the noise goes up as often as down. But the run is no longer the one that you asked for, and in a large corpus
the model would see the beginning after every stop, and its end never. In `make repro` the stage
checkpoint-roundtrip-verify resumes every run and stops here.""",
        """\
minitrain/training/checkpoint.py
  for part in fields(state):
+     if part.name == "data":
+         continue
""",
        """\
Stop a short run, resume it, and compare with one that was not stopped: the losses must be equal in every digit.
"About equal" is what this bug looks like.""",
        "tests/test_loop.py::test_a_run_resumed_from_any_checkpoint_is_the_same_run",
        "training loss",
        "difference",
    ),
    Bug(
        "Evaluation with dropout on",
        """\
The validation drops numbers as the training does. The model is as good as before, to the bit, but it is measured as
worse, and the gap grows as it learns. The best step is then chosen by the wrong score.""",
        """\
minitrain/model.py
- outputs = dict(self.layers(tape, tokens, tokens != PAD))
+ dropout = Dropout(0.3, 0.1, 0.1, np.random.Generator(np.random.SFC64(0)))
+ outputs = dict(self.layers(tape, tokens, tokens != PAD, dropout))
""",
        """\
Evaluate the same weights with two seeds: both must give the same number. With strong dropout a right validation
loss is often below the training loss at first; if yours never is, look here.""",
        "tests/test_model.py::test_the_mean_nll_is_the_loss_whatever_the_batch_size",
        "validation loss",
    ),
)
