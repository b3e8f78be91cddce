"""The settings a recipe may hold: fields of TRL's, transformers' and our configurations, read from source.

Importing `DPOConfig` takes seconds; parsing the files that define it takes milliseconds. So a recipe is
judged against the installed versions, whatever they are, before anything heavy is imported.
"""

import ast
import difflib
import importlib.util
import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

MISSING = object()
"""Default of a field whose default is not a literal in the source."""

# Where each class is defined: top-level package, file inside it.
SOURCES = {
    "TrainingArguments": ("transformers", "training_args.py"),
    "OptimizerNames": ("transformers", "training_args.py"),
    "IntervalStrategy": ("transformers", "trainer_utils.py"),
    "SaveStrategy": ("transformers", "trainer_utils.py"),
    "HubStrategy": ("transformers", "trainer_utils.py"),
    "SchedulerType": ("transformers", "trainer_utils.py"),
    "DebugOption": ("transformers", "debug_utils.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "DPOConfig": ("trl", "trainer/dpo_config.py"),
    "KTOConfig": ("trl", "trainer/kto_config.py"),
    "RLOOConfig": ("trl", "trainer/rloo_config.py"),
    "RewardConfig": ("trl", "trainer/reward_config.py"),
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "ModelConfig": ("trl", "trainer/model_config.py"),
    "ScriptArguments": ("trl", "scripts/utils.py"),
    "DatasetConfig": ("trl", "scripts/utils.py"),
    "DatasetMixtureConfig": ("trl", "scripts/utils.py"),
    "LossOptions": ("trl_ext", "trainers/config.py"),
    "PreferenceOptions": ("trl_ext", "trainers/config.py"),
    "PairedPreferenceConfig": ("trl_ext", "trainers/config.py"),
    "UnpairedPreferenceConfig": ("trl_ext", "trainers/config.py"),
    "PPOConfig": ("trl_ext", "trainers/ppo_config.py"),
    "OnlinePreferenceConfig": ("trl_ext", "trainers/online_config.py"),
    "RewardModelConfig": ("trl_ext", "trainers/stages.py"),
    "SupervisedConfig": ("trl_ext", "trainers/stages.py"),
    "CheckpointOptions": ("trl_ext", "trainers/checkpoint_options.py"),
    "FiniteStepOptions": ("trl_ext", "trainers/finite.py"),
    "PPOExtras": ("trl_ext", "recipe/extras.py"),
    "ModelExtras": ("trl_ext", "recipe/extras.py"),
    "DataExtras": ("trl_ext", "recipe/extras.py"),
}

# What each kind of training is configured by. Preference training is `paired` or `unpaired`, as its loss reads.
CONFIGS = {
    "paired": ("PairedPreferenceConfig",),
    "unpaired": ("UnpairedPreferenceConfig",),
    "ppo": ("PPOConfig", "PPOExtras"),
    "online": ("OnlinePreferenceConfig", "PPOExtras"),
    "reward": ("RewardModelConfig",),
    "sft": ("SupervisedConfig",),
}

# Values the code accepts beyond what the annotation says.
WIDER = {"resume_from_checkpoint": "bool"}

LONGEST = 120
"""Characters of a value or name that a sentence repeats."""

KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "None": "null",
}


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        name: Its name.
        annotation: The annotation as written, for instance ``float | None``.
        default: The default if it is a literal, else `MISSING`.
        choices: The only texts allowed, or `None` where any will do.
        help: The help text if it is a literal, else empty.
        owner: The class that defines it.
    """

    name: str
    annotation: str
    default: Any
    choices: tuple[str, ...] | None
    help: str
    owner: str

    @property
    def kinds(self) -> set[str]:
        """The kinds of value the annotation allows, as keys of `KINDS`; `Any` if it is not restricted."""
        kinds = _kinds(ast.parse(self.annotation, mode="eval").body)
        return kinds | {WIDER[self.name]} if self.name in WIDER else kinds


@lru_cache
def fields(class_name: str) -> dict[str, Field]:
    """The fields of a configuration class by name, in the order of `dataclasses.fields`."""
    node = _class(class_name)
    found: dict[str, Field] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in SOURCES:
            found |= fields(base.id)
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        annotation = ast.unparse(statement.annotation)
        if "ClassVar" in annotation:
            continue
        name = statement.target.id
        default, metadata = _default_and_metadata(statement.value)
        choices = metadata.get("choices") or _enum_values(statement.annotation)
        found[name] = Field(
            name=name,
            annotation=annotation,
            default=default,
            choices=tuple(choices) if choices else None,
            help=metadata.get("help", ""),
            owner=class_name,
        )
    return found


@lru_cache
def training(kind: str) -> dict[str, Field]:
    """Settings of one kind of training, a key of `CONFIGS`."""
    return {name: field for class_name in CONFIGS[kind] for name, field in fields(class_name).items()}


@lru_cache
def model() -> dict[str, Field]:
    """Settings of the model, its quantisation and its adapter."""
    return fields("ModelConfig") | fields("ModelExtras")


@lru_cache
def data() -> dict[str, Field]:
    """Settings of the dataset, a mixture of several included."""
    return fields("ScriptArguments") | fields("DatasetMixtureConfig") | fields("DataExtras")


def convert(field: Field, value: Any) -> Any:
    """The value in the field's type.

    What the parser of transformers converts is converted here too: numbers and booleans in quotes, a single
    entry where a list is meant, `no` (a boolean in YAML) where the text "no" is a choice.

    Raises:
        ValueError: Wrong type, or not among the choices. The message ends the sentence that begins with the
            setting's name: ``is 'fast': give a number.``
    """
    kinds = field.kinds
    if "Any" in kinds:
        return value
    for converted in _readings(value, kinds, field.choices):
        if field.choices and isinstance(converted, str) and converted not in field.choices:
            choices = [*field.choices, "true", "false"] if "bool" in kinds else field.choices
            raise ValueError(f"is {value!r}: {one_of(converted, choices)}")
        return converted
    if value is None:
        raise ValueError(f"is empty: give {_allowed(field)}, or remove the line.")
    remedy = f"give {_allowed(field)}"
    if kinds <= {"str", "None"} and not isinstance(value, (list, dict)):
        remedy = f"give {_allowed(field)} (in quotes if it is meant literally)"
    raise ValueError(f"is {shown(value)}: {remedy}.")


def one_of(given: str, allowed: tuple[str, ...] | list[str]) -> str:
    """“did you mean …” if something is near, else all that is allowed; both when the list is short."""
    near = nearest(given, allowed)
    everything = f"allowed are {', '.join(sorted(allowed))}."
    if not near:
        return everything
    meant = f"did you mean {' or '.join(near)}?"
    return meant if len(allowed) > 12 else f"{meant} {everything[0].upper()}{everything[1:]}"


def nearest(given: str, allowed: Any) -> list[str]:
    """Up to three allowed names that look like the given one, the nearest first."""
    return difflib.get_close_matches(given[:LONGEST], [str(name) for name in allowed], n=3, cutoff=0.66)


def shown(value: Any) -> str:
    """A value as the user wrote it, near enough."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**LONGEST:
        return f"a number of more than {LONGEST} digits"
    return {list: "a list", dict: "a mapping"}.get(type(value)) or shown_text(repr(value))


def shown_text(text: str) -> str:
    """A text in a sentence: on one line, without what cannot be printed, and not longer than anybody reads."""
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: LONGEST + 1])
    return printable if len(printable) <= LONGEST else f"{printable[:LONGEST]}…"


def _readings(value: Any, kinds: set[str], choices: tuple[str, ...] | None):
    """The value in each kind it can be read as, the most literal first."""
    number = _number(value)
    if value is None:
        if "None" in kinds:
            yield None
        return
    if isinstance(value, bool):
        if "bool" in kinds:
            yield value
        elif value is False and choices and "no" in choices:
            yield "no"
        return
    if number is not None:
        if "int" in kinds and float(number).is_integer():
            yield int(number)
        if "float" in kinds:
            yield number
    if isinstance(value, str):
        if "bool" in kinds and value.lower() in ("true", "false"):
            yield value.lower() == "true"
        if "str" in kinds:
            yield value
        if "None" in kinds and value.lower() in ("none", "null"):
            yield None
    if isinstance(value, dict) and "dict" in kinds:
        yield value
    if isinstance(value, (list, tuple)) and "list" in kinds:
        yield list(value)
    if isinstance(value, (str, int, float)) and "list" in kinds:
        yield [value]


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return None if isinstance(value, int) and abs(value) > sys.float_info.max else value


def _allowed(field: Field) -> str:
    if field.choices:
        return "one of " + ", ".join(field.choices)
    kinds = field.kinds
    named = [text for kind, text in KINDS.items() if kind in kinds and not (kind == "int" and "float" in kinds)]
    if not named or named == ["null"]:
        return "null (it cannot be set in a recipe)"
    return " or ".join(named)


def _kinds(annotation: ast.expr) -> set[str]:
    match annotation:
        case ast.BinOp(op=ast.BitOr()):
            return _kinds(annotation.left) | _kinds(annotation.right)
        case ast.Constant(value=None):
            return {"None"}
        case ast.Subscript(value=ast.Name(id="Optional")):
            return {"None"} | _kinds(annotation.slice)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple()):
            return set().union(*map(_kinds, annotation.slice.elts))
        case ast.Subscript(value=ast.Name(id="Literal")):
            literal = ast.literal_eval(annotation.slice)
            values = literal if isinstance(literal, tuple) else (literal,)
            return {type(value).__name__ for value in values}
        case ast.Subscript(value=ast.Name(id=name)) | ast.Name(id=name):
            if name == "tuple":  # which YAML writes as a list
                return {"list"}
            if name in KINDS or name == "Any":
                return {name}
            return {"str"} if _is_enum(name) else set()
    return set()


def _is_enum(name: str) -> bool:
    return name in SOURCES and any(isinstance(b, ast.Name) and "Enum" in b.id for b in _class(name).bases)


def _enum_values(annotation: ast.expr) -> tuple[str, ...]:
    """Values of an enumeration named at the top of an annotation such as ``SchedulerType | str``."""
    if isinstance(annotation, ast.BinOp):
        return _enum_values(annotation.left) or _enum_values(annotation.right)
    if not isinstance(annotation, ast.Name) or not _is_enum(annotation.id):
        return ()
    return tuple(
        statement.value.value
        for statement in _class(annotation.id).body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    )


def _default_and_metadata(value: ast.expr | None) -> tuple[Any, dict[str, Any]]:
    if value is None:
        return MISSING, {}
    if not isinstance(value, ast.Call):
        return _literal(value), {}
    default, metadata = MISSING, {}
    for keyword in value.keywords:
        match keyword.arg, keyword.value:
            case "default", expression:
                default = _literal(expression)
            case "default_factory", ast.Name(id="list"):
                default = []
            case "default_factory", ast.Name(id="dict"):
                default = {}
            case "default_factory", ast.Lambda(body=body):
                default = _literal(body)
            case "metadata", ast.Dict(keys=keys, values=values):
                pairs = zip(keys, values, strict=True)
                literals = {ast.literal_eval(k): _literal(v) for k, v in pairs if k is not None}
                metadata = {k: v for k, v in literals.items() if v is not MISSING}
    return default, metadata


def _literal(expression: ast.expr) -> Any:
    try:
        return ast.literal_eval(expression)
    except ValueError:
        return MISSING


@lru_cache
def _class(name: str) -> ast.ClassDef:
    package, file = SOURCES[name]
    for node in _module(package, file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{package}/{file} defines no class {name}: is another version of {package} installed?")


@lru_cache
def _module(package: str, file: str) -> ast.Module:
    # find_spec on a top-level package locates it without running it.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"{package} is not installed in this Python environment.")
    return ast.parse(Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8"))
