"""PyTorch, eager and compiled: fused q, k and v, scaled_dot_product_attention, fused AdamW, set_to_none."""

import os
import re
from collections.abc import Iterator

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

    def forward(self, tokens: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
        """The loss of (B, T) tokens. With ``real``, the flat places of those that are not padding, all but attention
        works on these rows alone, as in this project.
        """
        B, T = tokens.shape
        tokens, targets = tokens.flatten(), targets.flatten()
        if real is not None:
            tokens, targets = tokens[real], targets[real]
        x = F.dropout(self.embed(tokens), self.p.embed_dropout, self.training)  # (B*T or N, C)
        attention_dropout = self.p.attention_dropout if self.training else 0.0
        for block in self.blocks:
            qkv = block.qkv(block.ln1(x))
            if real is not None:
                qkv = qkv.new_zeros(B * T, qkv.shape[1]).index_copy(0, real, qkv)
            qkv = qkv.view(B, T, 3, self.H, -1).permute(2, 0, 3, 1, 4)
            q, k = self.rope(qkv[:2])
            heads = F.scaled_dot_product_attention(q, k, qkv[2], dropout_p=attention_dropout, is_causal=True)
            heads = heads.transpose(1, 2).reshape(B * T, -1)
            branch = block.o(heads if real is None else heads.index_select(0, real))
            x = x + F.dropout(branch, self.p.residual_dropout, self.training)
            branch = block.down(F.gelu(block.up(block.ln2(x)), approximate="tanh"))
            x = x + F.dropout(branch, self.p.residual_dropout, self.training)
        logits = F.linear(self.ln_final(x), self.embed.weight)
        return F.cross_entropy(logits, targets, ignore_index=PAD)


def by_our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of GPT, or their gradients, by minitrain's names; q, k and v as views of the fused matrix."""
    result = {}
    for name, tensor in tensors.items():
        ours = re.sub(r"\.(qkv|o)\.", r".attn.\1.", re.sub(r"\.(up|down)\.", r".ffn.\1.", name))
        if ".qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                result[ours.replace("qkv", letter)] = part
        else:
            result[ours] = tensor
    return result


def build(work: Work, variant: str) -> Contender:
    """Variants: eager-1 (one thread), eager, compile; eager-packed and compile-packed leave the padding out. What is
    compiled with padding takes rows of one length, the context, so that it is compiled once.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1 if variant == "eager-1" else len(os.sched_getaffinity(0)))
    compiled, packed = variant.startswith("compile"), variant.endswith("packed")
    params, model = work.train, GPT(work)
    weights, initial = dict(model.named_parameters()), work.named_weights()
    with torch.no_grad():
        for name, view in by_our_names(weights).items():
            view.copy_(torch.from_numpy(initial[name]))
    parameters = list(weights.values())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim == 2], "weight_decay": params.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=params.lr,
        betas=(params.beta1, params.beta2),
        eps=params.eps,
        fused=True,
    )
    ema = [p.detach().clone() for p in parameters]
    schedule = Schedule(params.lr, params.lr_final, params.warmup_steps, params.steps)
    forward = torch.compile(model, dynamic=packed) if compiled else model

    def batches() -> Iterator[list[Tensor]]:
        for batch in work.padded_batches() if compiled and not packed else work.batches():
            arrays = [*batch, np.flatnonzero(batch.targets != PAD)] if packed else batch
            yield list(map(torch.from_numpy, arrays))

    numbered = enumerate(batches())

    def step() -> float:
        number, batch = next(numbered)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(number)
        loss = forward(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, params.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1 - average_decay(number, params.ema_decay))
        return loss.item()

    def loss_and_grads() -> dict[str, np.ndarray]:
        model.train(False)
        loss = forward(*next(batches()))
        loss.backward()
        grads = by_our_names({name: weight.grad for name, weight in weights.items()})
        result = {name: tensor.numpy().copy() for name, tensor in {"loss": loss.detach(), **grads}.items()}
        optimizer.zero_grad(set_to_none=True)
        model.train(True)
        return result

    return Contender(step, loss_and_grads)
