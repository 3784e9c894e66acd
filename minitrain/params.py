"""``params.yaml`` as typed, validated values: each key with its meaning and its allowed range.

A field's annotation is its type; ``_key`` gives the range in words and as a test. ``read_params`` is
the only way in: an unknown key, a missing one, a wrong type or a value out of range is named.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from minitrain import files
from minitrain.errors import UserError


def _key(expected: str, holds: Callable[[Any], bool]) -> Any:
    return field(metadata={"expected": expected, "holds": holds})


def _at_least(low: int, high: int = 10**9) -> Any:
    return _key(f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def _fraction() -> Any:
    return _key("a number in (0, 1)", lambda value: 0 < value < 1)


def _probability() -> Any:
    return _key("a number in [0, 1)", lambda value: 0 <= value < 1)


def _positive() -> Any:
    # Not smaller, so that a number divided by it in float32 stays finite.
    return _key("a number from 1e-12 to 1e6", lambda value: 1e-12 <= value <= 1e6)


def _relative_path() -> Any:
    return _key(
        "a path inside the project",
        lambda value: value != "" and not value.startswith("/") and ".." not in Path(value).parts,
    )


@dataclass(frozen=True)
class DataParams:
    shards: str = _relative_path()  # folder of *.jsonl
    manifest: str = _relative_path()  # what pins them


@dataclass(frozen=True)
class SplitParams:
    by: str = _key("cell, verb_tense or verb", lambda value: value in ("cell", "verb_tense", "verb"))
    seed: int = _at_least(0)
    val_fraction: float = _fraction()  # of the finite cells (or groups of them)
    test_fraction: float = _fraction()


@dataclass(frozen=True)
class TokenizerParams:
    vocab_size: int = _key("a whole number from 5 to 65535", lambda value: 5 <= value <= 65535)


@dataclass(frozen=True)
class ModelParams:
    """The shape of MiniGPT. The values in the repository are the locked config: 103,680 parameters."""

    d_model: int = _at_least(2, 4096)
    n_heads: int = _at_least(1, 4096)
    n_layers: int = _at_least(1, 128)
    d_ff: int = _at_least(1, 65536)
    context: int = _at_least(1, 4096)  # tokens that the model reads at once

    def check(self) -> None:
        if self.d_model % self.n_heads != 0 or (self.d_model // self.n_heads) % 2 != 0:
            raise UserError(
                f"model.d_model: expected a multiple of 2 * n_heads = {2 * self.n_heads} (each head rotates "
                f"pairs), got {self.d_model}."
            )


@dataclass(frozen=True)
class TrainParams:
    seed: int = _at_least(0)
    steps: int = _at_least(1)
    batch_size: int = _at_least(1, 65536)  # sequences a step
    microshards: int = _at_least(1, 1024)  # parts, at most, of a batch; decides the order of sums, so the bits
    lr: float = _positive()  # after warm-up
    lr_final: float = _positive()  # where the cosine ends, one step after the last
    warmup_steps: int = _at_least(0)
    beta1: float = _probability()
    beta2: float = _probability()
    eps: float = _positive()
    weight_decay: float = _key("a number from 0 to 10", lambda value: 0 <= value <= 10)  # on 2-D tensors
    clip_norm: float = _positive()
    ema_decay: float = _probability()  # of the averaged weights, which are evaluated and exported
    embed_dropout: float = _probability()
    residual_dropout: float = _probability()
    attention_dropout: float = _probability()
    eval_every: int = _at_least(1)  # steps
    checkpoint_every: int = _at_least(1)  # steps

    def check(self) -> None:
        if self.lr_final > self.lr:
            raise UserError(f"train.lr_final: expected at most train.lr = {self.lr}, got {self.lr_final}.")
        if self.microshards > self.batch_size:
            raise UserError(
                f"train.microshards: expected at most train.batch_size = {self.batch_size}, got {self.microshards}."
            )


@dataclass(frozen=True)
class NgramParams:
    max_order: int = _key("a whole number from 2 to 10", lambda value: 2 <= value <= 10)
    alpha: float = _positive()  # added to each count
    discount: float = _fraction()  # of Kneser-Ney


@dataclass(frozen=True)
class Params:
    """All of ``params.yaml``, a section each."""

    data: DataParams
    split: SplitParams
    tokenizer: TokenizerParams
    model: ModelParams
    train: TrainParams
    ngram: NgramParams

    def check(self) -> None:
        if self.split.val_fraction + self.split.test_fraction >= 1:
            raise UserError(
                "split.val_fraction + split.test_fraction: expected less than 1, so that something is left to train on."
            )


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, made to refuse what is not plain: two equal keys, of which it takes the last; aliases, by
    which a file of a thousand bytes can stand for gigabytes; numbers that DVC, which reads YAML 1.2, would read as
    others (010 is 8 in YAML 1.1, and 10 there).
    """

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if not re.fullmatch(r"[-+]?((0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?|\.inf|\.nan)", node.value, re.IGNORECASE):
            raise UserError(f"line {node.start_mark.line + 1}: expected a plain decimal number, got {node.value:.60}.")
        is_whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise UserError(f"line {event.start_mark.line + 1}: '*{event.anchor}' is an alias. Write the value itself.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no key of ours
            if key_node.value in seen:
                raise UserError(
                    f"line {key_node.start_mark.line + 1}: key '{key_node.value}' stands twice. Remove one."
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


for kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{kind}", _StrictLoader.construct_number)


def read_params(path: Path = Path("params.yaml")) -> Params:
    """The validated content of ``params.yaml``; UserError names line, key, what was expected and what was got."""
    if not path.exists():
        raise UserError(f"{path}: not found. Run this in the project's root.")
    text = files.read_text(path)
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
        return _section("", Params, value)  # type: ignore[no-any-return]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2001-99-99
        raise UserError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    except UserError as error:
        line = _line_of(text, str(error).split()[0].rstrip(":"))
        raise UserError(f"{path}{line}: {error}") from error


def _line_of(text: str, dotted: str) -> str:
    """``:LINE`` of a key in the file, or nothing where it is not there."""
    lines: dict[str, int] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # below the place in question
        return ""
    for section, keys in root.value if isinstance(root, yaml.MappingNode) else []:
        lines[str(section.value)] = section.start_mark.line + 1
        for key, _ in keys.value if isinstance(keys, yaml.MappingNode) else []:
            lines[f"{section.value}.{key.value}"] = key.start_mark.line + 1
    return f":{lines[dotted]}" if dotted in lines else ""


def _section(name: str, cls: Any, value: Any) -> Any:
    """Build ``cls`` from a mapping, checking every key; ``name`` is the dotted name of the section."""
    if not isinstance(value, dict):
        raise UserError(
            f"{name or 'the file'}: expected keys {', '.join(f.name for f in fields(cls))}, got {value!r:.60}."
        )
    known = {f.name: f for f in fields(cls)}
    for key in value:
        if key not in known:
            raise UserError(
                f"{_dotted(name, str(key))}: unknown key. {name or 'The file'} has the keys {', '.join(known)}."
            )
    for key in known:
        if key not in value:
            raise UserError(f"key {_dotted(name, key)} is missing.")
    built = cls(**{key: _value(_dotted(name, key), known[key], value[key]) for key in known})
    if hasattr(built, "check"):
        built.check()
    return built


def _value(name: str, spec: Any, value: Any) -> Any:
    if "expected" not in spec.metadata:
        return _section(name, spec.type, value)
    if spec.type is float and type(value) is int:
        value = float(value)
    if type(value) is not spec.type:
        hint = " (YAML reads 1e-8 as text; write 1.0e-8)" if spec.type is float and isinstance(value, str) else ""
        raise UserError(
            f"{name}: expected {spec.metadata['expected']}, got {type(value).__name__} {value!r:.60}{hint}."
        )
    if not spec.metadata["holds"](value):
        raise UserError(f"{name}: expected {spec.metadata['expected']}, got {value!r:.60}.")
    return value


def _dotted(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key
