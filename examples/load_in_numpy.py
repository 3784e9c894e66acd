"""The trained model in NumPy and safetensors alone, as docs/format.md describes it. In the project's root, after
``make repro``: ``python examples/load_in_numpy.py``. T positions, C channels, H heads of D = C / H, V tokens.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

MODELS = Path("models")
(manifest,) = (json.loads(path.read_text()) for path in MODELS.glob("*.manifest.json"))
tokenizer = json.loads((MODELS / "tokenizer.json").read_text())
config = manifest["config"]["model"]
weights = {name: array.astype(np.float64) for name, array in load_file(MODELS / manifest["model"]).items()}


def layer_norm(x: np.ndarray, name: str) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rope(x: np.ndarray) -> np.ndarray:
    """(T, H, D): the pair (2j, 2j + 1) of position t is turned by t * 10000^(-2j/D)."""
    T, _, D = x.shape
    angles = np.arange(T)[:, None, None] * 10000.0 ** (-np.arange(0, D, 2) / D)  # (T, 1, D/2)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = [even * np.cos(angles) - odd * np.sin(angles), odd * np.cos(angles) + even * np.sin(angles)]
    return np.stack(turned, axis=-1).reshape(x.shape)


def logits(tokens: np.ndarray) -> np.ndarray:
    """One sequence (T,) -> (T, V)."""
    T, H = len(tokens), config["n_heads"]
    x = weights["embed.weight"][tokens]  # (T, C)
    for b in (f"blocks.{i}" for i in range(config["n_layers"])):
        normed = layer_norm(x, f"{b}.ln1")
        q, k, v = ((normed @ weights[f"{b}.attn.{name}.weight"].T).reshape(T, H, -1) for name in "qkv")
        scores = np.einsum("qhd,khd->hqk", rope(q), rope(k)) / np.sqrt(q.shape[2])
        scores = np.exp(np.where(np.tri(T, dtype=bool), scores, -np.inf))  # small numbers: no maximum to subtract
        probs = scores / scores.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", probs, v).reshape(T, -1) @ weights[f"{b}.attn.o.weight"].T
        h = layer_norm(x, f"{b}.ln2") @ weights[f"{b}.ffn.up.weight"].T + weights[f"{b}.ffn.up.bias"]
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ weights[f"{b}.ffn.down.weight"].T + weights[f"{b}.ffn.down.bias"]
    return layer_norm(x, "ln_final") @ weights["embed.weight"].T


def encode(text: str) -> np.ndarray:
    """<bos>, the tokens of the text, <eos>."""
    pieces = [char if char in tokenizer["tokens"] else "<unk>" for char in text]
    for left, right in tokenizer["merges"]:
        for i in range(len(pieces)):
            if pieces[i : i + 2] == [left, right]:
                pieces[i : i + 2] = [left + right]
    return np.array([tokenizer["tokens"].index(piece) for piece in ("<bos>", *pieces, "<eos>")])


def nll(tokens: np.ndarray) -> np.ndarray:
    """-log p of each token after the first, in nats."""
    rows = logits(tokens[:-1])
    return np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(rows)), tokens[1:]]


probe = load_file(MODELS / "evidence/probe.safetensors")
ours = np.concatenate([logits(row[row != 0]) for row in probe["tokens"]])
difference = np.abs(ours - probe["logits"]).max()
print(f"logits of the probe: differ by at most {difference:.1e}")

test_set = load_file("data/batches/test.safetensors")
sequences = np.split(test_set["tokens"].astype(int), test_set["offsets"][1:-1])
perplexity = np.exp(np.concatenate([nll(tokens) for tokens in sequences]).mean())
recorded = json.loads(Path("plots/baseline-compare/metrics.json").read_text())["test_ppl"]
print(f"test perplexity: {perplexity:.6g}, recorded {recorded}")

for text in ("en:you work / es:tú trabajas", "en:you work / es:tú trabajo"):
    print(f"perplexity of {text!r}: {np.exp(nll(encode(text)).mean()):.2f}")

if not (difference < 1e-4 and abs(perplexity / recorded - 1) < 1e-5):
    raise SystemExit("error: this is not the model that was trained")
