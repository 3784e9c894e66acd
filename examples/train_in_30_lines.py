"""Train on texts of your own, without the pipeline: ``pip install .``, then ``python train_in_30_lines.py``."""

import numpy as np

import minitrain
from minitrain.minitorch.gradcheck import numeric_gradient, relative_error

texts = [f"{a} is {'more' if a > b else 'less'} than {b}" for a in range(30) for b in range(30) if a != b]
tokenizer = minitrain.train_tokenizer(texts, vocab_size=30)
val_set = minitrain.tokenize(texts[::10], tokenizer)
train_set = minitrain.tokenize([text for n, text in enumerate(texts) if n % 10], tokenizer)

# fmt: off
model_config = minitrain.ModelConfig(vocab_size=30, d_model=32, n_heads=2, n_layers=2, d_ff=64, context=16)
config = minitrain.TrainConfig(
    seed=1, steps=60, batch_size=32, microshards=2, lr=1e-2, lr_final=1e-3, warmup_steps=10, beta1=0.9, beta2=0.95,
    eps=1e-8, weight_decay=0.1, clip_norm=1.0, ema_decay=0.9, embed_dropout=0.0, residual_dropout=0.0,
    attention_dropout=0.0, eval_every=20, checkpoint_every=30,
)
# fmt: on

# One batch, its loss and its gradient, in float64; the gradient of a parameter against finite differences.
state = minitrain.initial_state(model_config, config)
(batch,) = state.data.next_batch(train_set, batch_size=32, n_shards=1)
weights = state.model.weights.astype(np.float64)
grads = np.zeros_like(weights)
model = minitrain.MiniGPT.with_weights(model_config, weights, grads)
tape = minitrain.Tape()
loss = model.loss(tape, batch, batch.n_targets)
tape.backward(loss)  # adds to grads
name = "blocks.0.ffn.down.bias"
gradient, bias = model.views(grads)[name], model.views(weights)[name]
numeric = numeric_gradient(lambda: model.loss(minitrain.Tape(), batch, batch.n_targets).data[0], bias, eps=1e-5)
print(f"loss {loss.data[0]:.4f}; the gradient of {name} begins with {gradient[:3]}")
assert relative_error(gradient, numeric) < 1e-6

# Train, and save the state halfway.
state = minitrain.initial_state(model_config, config)
for event in minitrain.train(state, train_set, val_set, model_config, config):
    if isinstance(event, minitrain.Evaluation):
        print(f"step {event.step}: validation perplexity {minitrain.perplexity(event.loss):.2f}")
    if isinstance(event, minitrain.CheckpointDue) and state.step == 30:
        minitrain.save_state("halfway.safetensors", state)

# Go on from there: the same bits.
resumed = minitrain.load_state("halfway.safetensors", model_config, config)
for _ in minitrain.train(resumed, train_set, val_set, model_config, config):
    pass
assert np.array_equal(resumed.model.weights, state.model.weights)

# Save the model with its tokenizer, load it, score texts.
minitrain.save("my-model", state, tokenizer, model_config)
loaded = minitrain.load("my-model")
for text in ("21 is more than 7", "21 is less than 7"):
    nll = minitrain.score(loaded.weights, minitrain.tokenize([text], loaded.tokenizer), loaded.config)
    print(f"perplexity of {text!r}: {minitrain.perplexity(nll):.2f}")
