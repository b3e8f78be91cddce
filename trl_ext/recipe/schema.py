"""Read the fields of TRL's, transformers' and trl-ext's configurations from their source files.

Importing `DPOConfig` takes seconds; parsing the files that define it takes milliseconds. So a recipe is checked against the
installed versions before anything heavy is imported.
"""

import ast
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trl_ext.methods import METHODS

MISSING = object()
"""Default of a field whose default is not a literal in the source."""

# Where each class is defined: top-level package, file inside it. The configurations of `METHODS` are added below; a class of
# TRL whose name one of them has is named as its subclasses do, `trl.NAME`.
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
    "trl.RLOOConfig": ("trl", "trainer/rloo_config.py"),
    "trl.GRPOConfig": ("trl", "trainer/grpo_config.py"),
    "RewardConfig": ("trl", "trainer/reward_config.py"),
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "ModelConfig": ("trl", "trainer/model_config.py"),
    "ScriptArguments": ("trl", "scripts/utils.py"),
    "DatasetConfig": ("trl", "scripts/utils.py"),
    "DatasetMixtureConfig": ("trl", "scripts/utils.py"),
    "LossOptions": ("trl_ext", "trainers/preference/config.py"),
    "PreferenceOptions": ("trl_ext", "trainers/preference/config.py"),
    "CheckpointOptions": ("trl_ext", "trainers/common/checkpoint_options.py"),
    "KernelOptions": ("trl_ext", "trainers/common/kernel_options.py"),
    "RecomputeOptions": ("trl_ext", "trainers/common/recompute_options.py"),
    "RowOptions": ("trl_ext", "trainers/common/row_options.py"),
    "SamplingOptions": ("trl_ext", "trainers/rollout/sampling_options.py"),
    "FiniteStepOptions": ("trl_ext", "trainers/common/nonfinite.py"),
    "RewardExtras": ("trl_ext", "recipe/extras.py"),
    "ModelExtras": ("trl_ext", "recipe/extras.py"),
    "DataExtras": ("trl_ext", "recipe/extras.py"),
    "EntryExtras": ("trl_ext", "recipe/extras.py"),
    "RunExtras": ("trl_ext", "recipe/extras.py"),
    "EvaluationKeys": ("trl_ext", "recipe/extras.py"),
    "SearchKeys": ("trl_ext", "recipe/extras.py"),
}
for _method in METHODS.values():
    _module_name, _, _name = _method.config.partition(":")
    _package, *_folders = _module_name.split(".")
    SOURCES[_name] = (_package, f"{'/'.join(_folders)}.py")

# Values the code accepts beyond what the annotation says.
WIDER = {"resume_from_checkpoint": "bool", "fsdp": "bool", "scale_rewards": "bool"}

# Types of our own fields, for the parsers of flags (`trl_ext.trainers.common.flags`), and what their values are.
OWN_TYPES = {"SwitchOrAuto": 'bool | Literal["auto"]', "CountOrAuto": "int | str"}

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
        if (parent := ast.unparse(base)) in SOURCES:
            found |= fields(parent)
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        annotation = ast.unparse(statement.annotation)
        annotation = OWN_TYPES.get(annotation, annotation)
        if "ClassVar" in annotation:
            continue
        name = statement.target.id
        default, metadata = _default_and_metadata(statement.value)
        parsed = ast.parse(annotation, mode="eval").body
        choices = metadata.get("choices") or _enum_values(parsed) or _literal_texts(parsed)
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
    """Settings of one kind of training, a key of `methods.METHODS`."""
    return {name: field for class_name in METHODS[kind].settings for name, field in fields(class_name).items()}


@lru_cache
def model() -> dict[str, Field]:
    """Settings of the model, its quantisation and its adapter."""
    return fields("ModelConfig") | fields("ModelExtras")


@lru_cache
def data() -> dict[str, Field]:
    """Settings of the dataset, a mixture of several included."""
    return fields("ScriptArguments") | fields("DatasetMixtureConfig") | fields("DataExtras")


@lru_cache
def entry() -> dict[str, Field]:
    """Settings of an entry of `datasets`."""
    return fields("DatasetConfig") | fields("EntryExtras")


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


def _literal_texts(annotation: ast.expr) -> tuple[str, ...]:
    """Texts of a literal in an annotation such as ``bool | Literal["auto"]``."""
    literals = [
        node.slice
        for node in ast.walk(annotation)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    ]
    values = [node.value for literal in literals for node in ast.walk(literal) if isinstance(node, ast.Constant)]
    return tuple(value for value in values if isinstance(value, str))


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
        if isinstance(node, ast.ClassDef) and node.name == name.rpartition(".")[2]:
            return node
    raise LookupError(f"{package}/{file} defines no class {name}: is another version of {package} installed?")


@lru_cache
def _module(package: str, file: str) -> ast.Module:
    # find_spec on a top-level package locates it without running it.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"{package} is not installed in this Python environment.")
    return ast.parse(Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8"))
