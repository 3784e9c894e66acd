"""``params.yaml`` as typed, validated values: each key with its meaning and its allowed range.

pydantic checks the types and ranges that the annotations name; ``Params`` checks the rules between keys.
``read_params`` is the only way in: an unknown key, a missing one, a wrong type or a value out of range is named with
its line.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from minitrain.base import UserError, formats

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

# strict: a whole number is no text, no float and no bool; a number may be written as a whole one.
Whole = Annotated[int, Field(strict=True, ge=0, le=10**9)]
Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Fraction = Annotated[float, Field(strict=True, gt=0, lt=1)]
Probability = Annotated[float, Field(strict=True, ge=0, lt=1)]
# Not smaller, so that a number divided by it in float32 stays finite.
Positive = Annotated[float, Field(strict=True, ge=1e-12, le=1e6)]


@dataclass(frozen=True, config=CONFIG)
class DataConfig:
    """Paths inside the project."""

    shards: str  # folder of *.jsonl
    manifest: str  # the digests and counts of the shards


@dataclass(frozen=True, config=CONFIG)
class SplitConfig:
    """Which cells are held out."""

    by: Literal["cell", "verb_tense", "verb"]  # what is held out as a whole
    seed: Whole
    val_fraction: Fraction  # of the finite cells (or groups of them)
    test_fraction: Fraction


@dataclass(frozen=True, config=CONFIG)
class ModelConfig:
    """The shape of MiniGPT. The values in the repository are the locked config: 103,680 parameters."""

    vocab_size: Annotated[int, Field(strict=True, ge=5, le=65535)]  # entries of the tokenizer
    d_model: Annotated[int, Field(strict=True, ge=2, le=4096)]
    n_heads: Annotated[int, Field(strict=True, ge=1, le=4096)]
    n_layers: Annotated[int, Field(strict=True, ge=1, le=128)]
    d_ff: Annotated[int, Field(strict=True, ge=1, le=65536)]
    context: Annotated[int, Field(strict=True, ge=1, le=4096)]  # tokens that the model reads at once
    # exact: the same bits on every machine. native: NumPy's own products and functions, faster, bits as they come.
    arithmetic: Literal["exact", "native"] = "exact"

    @field_validator("n_heads")  # not a rule of Params: who uses the library has no params.yaml
    @classmethod
    def _heads_of_pairs(cls, n_heads: int, info: ValidationInfo) -> int:
        d_model = info.data.get("d_model", 0)  # not there: it is wrong itself
        if d_model % (2 * n_heads) != 0:
            raise ValueError(
                f"expected a divisor of d_model / 2 = {d_model / 2:g} (each head rotates pairs), got {n_heads}"
            )
        return n_heads


@dataclass(frozen=True, config=CONFIG)
class TrainConfig:
    """How the model is trained."""

    seed: Whole
    steps: Count
    batch_size: Annotated[int, Field(strict=True, ge=1, le=65536)]  # sequences a step
    # Parts, at most, of a batch. They decide the order of sums, so the bits.
    microshards: Annotated[int, Field(strict=True, ge=1, le=1024)]
    lr: Positive  # after warm-up
    lr_final: Positive  # where the cosine ends, one step after the last
    warmup_steps: Whole
    beta1: Probability
    beta2: Probability
    eps: Positive
    weight_decay: Annotated[float, Field(strict=True, ge=0, le=10)]  # on 2-D tensors
    clip_norm: Positive
    ema_decay: Probability  # of the averaged weights, which are evaluated and exported
    embed_dropout: Probability
    residual_dropout: Probability
    attention_dropout: Probability
    eval_every: Count  # steps
    checkpoint_every: Count  # steps


@dataclass(frozen=True, config=CONFIG)
class NgramConfig:
    """The n-gram models that MiniGPT is compared with."""

    max_order: Annotated[int, Field(strict=True, ge=2, le=10)]
    alpha: Positive  # added to each count
    discount: Fraction  # of Kneser-Ney


@dataclass(frozen=True, config=CONFIG)
class Params:
    """All of ``params.yaml``, a section each."""

    data: DataConfig
    split: SplitConfig
    model: ModelConfig
    train: TrainConfig
    ngram: NgramConfig

    def __post_init__(self) -> None:
        data, split, train = self.data, self.split, self.train
        rules = (
            (_is_inside(data.shards), f"data.shards: expected a path inside the project, got {data.shards!r}"),
            (_is_inside(data.manifest), f"data.manifest: expected a path inside the project, got {data.manifest!r}"),
            (
                split.val_fraction + split.test_fraction < 1,
                f"split.val_fraction: expected less than 1 together with test_fraction, so that something is left to "
                f"train on, got {split.val_fraction} + {split.test_fraction}",
            ),
            (
                train.microshards <= train.batch_size,
                f"train.microshards: expected at most train.batch_size = {train.batch_size}, got {train.microshards}",
            ),
            (
                train.lr_final <= train.lr,
                f"train.lr_final: expected at most train.lr = {train.lr}, got {train.lr_final}",
            ),
        )
        for holds, problem in rules:
            if not holds:
                raise ValueError(problem)


def _is_inside(path: str) -> bool:
    return path != "" and not path.startswith("/") and ".." not in Path(path).parts


def read_params(path: Path = Path("params.yaml")) -> Params:
    """The validated content of ``params.yaml``; UserError names line, key, what was expected and what was got."""
    value = formats.read_yaml(path)
    try:
        return TypeAdapter(Params).validate_python(value)
    except ValidationError as error:
        message = ": ".join(filter(None, first_problem(error)))
        raise UserError(f"{path}:{_line_of(message.split(':')[0], path)}: {message}.") from error


def _line_of(dotted: str, path: Path) -> int:
    """The line of ``section.key`` in the file, or of the section where it has no such key."""
    line, node = 1, YAML().load(path)
    for part in dotted.split("."):
        if isinstance(node, CommentedMap) and part in node:
            line, node = node.lc.key(part)[0] + 1, node[part]
    return line


# What pydantic finds wrong, in the words of all our messages. Keys: the types in its list of errors.
PROBLEMS = {
    "dataclass_type": "expected keys with values, got {got}",
    "dict_type": "expected keys with values, got {got}",
    "finite_number": "expected a finite number, got {got}",
    "float_type": "expected a number, got {got}",
    "greater_than": "expected more than {gt:g}, got {got}",
    "greater_than_equal": "expected at least {ge}, got {got}",
    "int_type": "expected a whole number, got {got}",
    "invalid_key": "unknown key",
    "json_invalid": "expected a JSON object, got broken JSON: {error}",
    "less_than": "expected less than {lt:g}, got {got}",
    "less_than_equal": "expected at most {le}, got {got}",
    "list_type": "expected a list, got {got}",
    "literal_error": "expected one of {expected}, got {got}",
    "missing": "this key is missing",
    "string_type": "expected text, got {got}",
    "unexpected_keyword_argument": "unknown key",
    "value_error": "{error}",
}


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The dotted key of the first thing that pydantic refuses, and what is wrong with it, in words of one line.

    The key is "" for a rule between keys, whose words begin with the key.
    """
    # A misspelled key is missing under its right name as well: what is there says more than what is not.
    first = min(error.errors(), key=lambda problem: problem["type"] == "missing")
    got = f"{type(first['input']).__name__} {first['input']!r:.60}"
    template = PROBLEMS.get(first["type"], "{msg}, got {got}")
    beside = [e["loc"][-1] for e in error.errors() if e["type"] == "missing" and e["loc"][:-1] == first["loc"][:-1]]
    if beside and first["type"] != "missing":
        template += f"; missing here: {', '.join(map(str, beside))}"
    problem = template.format(msg=first["msg"], got=got, **first.get("ctx", {}))
    return " ".join(".".join(map(str, first["loc"])).split()), " ".join(problem.split())
