"""PyTorch, eager and compiled: fused q, k and v, scaled_dot_product_attention, fused AdamW, set_to_none."""

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (everybody's name for it)
from torch import Tensor, nn

from benchmarks.workload import Contender, Work
from minitrain.dataset.tokenizer import PAD
from minitrain.minitorch.schedule import Schedule
from minitrain.model import ROPE_BASE
from minitrain.training.state import average_decay


class Block(nn.Module):  # type: ignore[misc]  # torch is not there when this is checked
    def __init__(self, C: int, d_ff: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.o = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.up, self.down = nn.Linear(C, d_ff), nn.Linear(d_ff, C)


class GPT(nn.Module):  # type: ignore[misc]
    """The model of minitrain.model, as one writes it in PyTorch."""

    cos: Tensor
    sin: Tensor

    def __init__(self, work: Work) -> None:
        super().__init__()
        config = work.model
        C, self.H, self.p = config.d_model, config.n_heads, work.train
        self.embed = nn.Embedding(config.vocab_size, C)
        self.blocks = nn.ModuleList(Block(C, config.d_ff) for _ in range(config.n_layers))
        self.ln_final = nn.LayerNorm(C)
        D = C // self.H
        angles = torch.arange(config.context)[:, None] * ROPE_BASE ** (-torch.arange(0, D, 2) / D)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rope(self, x: Tensor) -> Tensor:
        """(..., T, D): consecutive pairs are turned."""
        T = x.shape[-2]
        a, b = x[..., 0::2], x[..., 1::2]
        cos, sin = self.cos[:T], self.sin[:T]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        B, T = tokens.shape
        x = F.dropout(self.embed(tokens), self.p.embed_dropout, self.training)
        attention_dropout = self.p.attention_dropout if self.training else 0.0
        for block in self.blocks:
            qkv = block.qkv(block.ln1(x)).view(B, T, 3, self.H, -1).permute(2, 0, 3, 1, 4)
            q, k = self.rope(qkv[:2])
            heads = F.scaled_dot_product_attention(q, k, qkv[2], dropout_p=attention_dropout, is_causal=True)
            branch = block.o(heads.transpose(1, 2).reshape(B, T, -1))
            x = x + F.dropout(branch, self.p.residual_dropout, self.training)
            branch = block.down(F.gelu(block.up(block.ln2(x)), approximate="tanh"))
            x = x + F.dropout(branch, self.p.residual_dropout, self.training)
        logits = F.linear(self.ln_final(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)

    def load(self, named: dict[str, np.ndarray]) -> None:
        """Take weights by minitrain's names."""
        with torch.no_grad():
            for name, parameter in self.minitrain_parameters().items():
                parameter.copy_(torch.from_numpy(named[name]))

    def minitrain_parameters(self, of_gradient: bool = False) -> dict[str, Tensor]:
        """The parameters, or their gradients, by minitrain's names; q, k and v as views of the fused matrix."""

        def get(parameter: Any) -> Tensor:
            tensor: Tensor = parameter.grad if of_gradient else parameter
            return tensor

        result = {"embed.weight": get(self.embed.weight)}
        for i, block in enumerate(self.blocks):
            b = f"blocks.{i}."
            for j, name in enumerate("qkv"):
                result[f"{b}attn.{name}.weight"] = get(block.qkv.weight).chunk(3)[j]
            result[f"{b}attn.o.weight"] = get(block.o.weight)
            for module, name in (
                (block.ln1, "ln1"),
                (block.ln2, "ln2"),
                (block.up, "ffn.up"),
                (block.down, "ffn.down"),
            ):
                result[f"{b}{name}.weight"], result[f"{b}{name}.bias"] = get(module.weight), get(module.bias)
        result["ln_final.weight"], result["ln_final.bias"] = get(self.ln_final.weight), get(self.ln_final.bias)
        return result


def build(work: Work, threads: int, compiled: bool) -> Contender:
    """Compiled training takes rows of one length, the context, so that it is compiled once."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    params, model = work.train, GPT(work)
    model.load(work.named_weights())
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=params.lr,
        betas=(params.beta1, params.beta2),
        eps=params.eps,
        fused=True,
    )
    weights = list(model.parameters())
    ema = [p.detach().clone() for p in weights]
    schedule = Schedule(params.lr, params.lr_final, params.warmup_steps, params.steps)
    forward = torch.compile(model, dynamic=False) if compiled else model
    batches = work.padded_batches() if compiled else work.batches()
    steps = itertools.count()

    def step() -> float:
        tokens, targets = map(torch.from_numpy, next(batches))
        number = next(steps)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(number)
        loss = forward(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, params.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, weights, 1 - average_decay(number, params.ema_decay))
        return float(loss)

    def loss_and_grads() -> tuple[float, dict[str, np.ndarray]]:
        batch = next(work.padded_batches() if compiled else work.batches())
        model.train(False)
        loss = forward(*map(torch.from_numpy, batch))
        loss.backward()
        grads = {name: grad.numpy().copy() for name, grad in model.minitrain_parameters(of_gradient=True).items()}
        optimizer.zero_grad(set_to_none=True)
        model.train(True)
        return float(loss), grads

    return Contender(step, loss_and_grads)
