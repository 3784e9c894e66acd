"""The trained model in plain PyTorch, as docs/format.md describes it, and what the usual mistake with RoPE does. In the
project's root, after ``make repro``, with torch, numpy and safetensors: ``python examples/load_in_pytorch.py``.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence


def rope(x: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """(B, H, T, D): pair j of position t, as a complex number, is turned by t * 10000^(-2j/D). It is (2j, 2j + 1),
    interleaved; the usual mistake is the half-split pair (j, j + D/2) of other models.
    """
    T, D = x.shape[2:]
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).transpose(-2, -1)
    angles = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, D, 2) / D)  # (T, D/2)
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_real(turned)
    return pairs.flatten(-2) if interleaved else pairs.transpose(-2, -1).flatten(-2)


class Block(nn.Module):
    interleaved = True

    def __init__(self, C: int, F: int, H: int) -> None:
        super().__init__()
        self.ln1, self.ln2, self.n_heads = nn.LayerNorm(C), nn.LayerNorm(C), H
        self.attn = nn.ModuleDict({name: nn.Linear(C, C, bias=False) for name in "qkvo"})
        self.ffn = nn.ModuleDict({"up": nn.Linear(C, F), "down": nn.Linear(F, C)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.ln1(x)
        q, k, v = (self.attn[name](h).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for name in "qkv")
        q, k = rope(q, self.interleaved), rope(k, self.interleaved)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # divides by sqrt(D)
        x = x + self.attn["o"](heads.transpose(1, 2).flatten(2))
        return x + self.ffn["down"](functional.gelu(self.ffn["up"](self.ln2(x)), approximate="tanh"))


class MiniGPT(nn.Module):
    def __init__(self, vocab_size: int, d_model: int, d_ff: int, n_heads: int, n_layers: int, **_: object) -> None:
        super().__init__()
        self.embed, self.ln_final = nn.Embedding(vocab_size, d_model), nn.LayerNorm(d_model)
        self.blocks = nn.Sequential(*(Block(d_model, d_ff, n_heads) for _ in range(n_layers)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.ln_final(self.blocks(self.embed(tokens))) @ self.embed.weight.T


@torch.no_grad()
def main() -> None:
    models = Path("models")
    (manifest,) = (json.loads(path.read_text()) for path in models.glob("*.manifest.json"))
    model = MiniGPT(**manifest["config"]["model"])
    model.load_state_dict(load_file(models / manifest["model"]))
    probe = load_file(models / "evidence/probe.safetensors")
    tokens = probe["tokens"]  # (B, T), padded with 0 at the end, where a causal model does not look

    def difference() -> float:
        return (model(tokens)[tokens != 0] - probe["logits"]).abs().max().item()

    ours = difference()
    test_set = load_file("data/batches/test.safetensors")
    sequences = pad_sequence(test_set["tokens"].long().tensor_split(test_set["offsets"][1:-1]), batch_first=True)
    logits, targets = model(sequences[:, :-1]), sequences[:, 1:]
    perplexity = functional.cross_entropy(logits[targets != 0], targets[targets != 0]).exp().item()
    recorded = json.loads(Path("plots/baseline-compare/metrics.json").read_text())["test_ppl"]
    Block.interleaved = False
    wrong = difference()

    print(f"logits of the probe: differ by at most {ours:.1e}; with half-split RoPE by {wrong:.1e}")
    print(f"test perplexity: {perplexity:.6g}, recorded {recorded}")
    if not (ours < 1e-4 and abs(perplexity / recorded - 1) < 1e-5 and wrong > 10):
        raise SystemExit("error: this is not the model that was trained")


if __name__ == "__main__":
    main()
