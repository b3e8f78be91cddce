"""Rule about `model_init_kwargs`, whose unknown names transformers refuses only when it makes the model."""

import ast
import json
from collections.abc import Iterator, Set
from functools import lru_cache
from pathlib import Path

from trl_ext import demo
from trl_ext.checks import installed_source
from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.demo import EMBEDDED
from trl_ext.support import messages

LOADERS = (("modeling_utils.py", "PreTrainedModel"), ("models/auto/auto_factory.py", "_BaseAutoModelClass"))
"""Classes of transformers whose `from_pretrained` reads arguments, and where they are defined."""

OF_THE_HUB = ("proxies", "subfolder", "code_revision", "_from_auto", "_commit_hash", "device_map", "trust_remote_code")
"""Arguments that are passed on to functions of transformers and huggingface_hub."""


@problem("model_init_kwargs", "model_name_or_path", recipe_only=True)
def names(s: Settings) -> Iterator[str]:
    given, model = s["model_init_kwargs"], s["model_name_or_path"]
    if not isinstance(given, dict) or not given or not isinstance(model, str):
        return
    allowed = allowed_names(demo.MODEL if model == EMBEDDED else Path(model).expanduser())
    if allowed is None:
        return
    for key in given:
        if key not in allowed:
            yield unknown(s.where("model_init_kwargs"), str(key), model, allowed)


def unknown(where: str, key: str, model: str, allowed: Set[str]) -> str:
    """A sentence about a name that a model cannot be loaded with."""
    near = messages.nearest(key, sorted(name for name in allowed if not name.startswith("_")))
    hint = f"did you mean {messages.joined(near, 'or')}?" if near else "remove it."
    return (
        f"{where} has `{messages.shown_text(key)}`, which neither transformers' `from_pretrained` nor the configuration of {model} "
        f"takes: {hint}"
    )


def allowed_names(folder: Path) -> set[str] | None:
    """Names that a model in a folder can be loaded with; `None` if its configuration is not part of transformers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        of_model = _fields_of(str(config["model_type"]))
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None
    return {*loading_arguments(), *of_model, *config}


@lru_cache
def loading_arguments() -> frozenset[str]:
    """Names that transformers' `from_pretrained` reads, whatever the model."""
    found = set(OF_THE_HUB)
    for file, name in LOADERS:
        tree = installed_source.parse("transformers", file)
        function = installed_source.find(installed_source.find(tree, name), "from_pretrained")
        found |= {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
        found |= {
            call.args[0].value
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in ("pop", "get")
            and isinstance(call.func.value, ast.Name)
            and "kwargs" in call.func.value.id
            and call.args
            and isinstance(call.args[0], ast.Constant)
        }
        loops = [
            node.iter for node in ast.walk(function) if isinstance(node, ast.For) and isinstance(node.iter, ast.List)
        ]
        found |= {name.value for names in loops for name in names.elts if isinstance(name, ast.Constant)}  # old names
    return frozenset(found - {"cls", "self", "pretrained_model_name_or_path"})


def _fields_of(model_type: str) -> set[str]:
    """Attributes of a model's configuration class and of the class of all configurations."""
    folder = model_type.replace("-", "_")
    own = installed_source.parse("transformers", f"models/{folder}/configuration_{folder}.py")
    common = installed_source.parse("transformers", "configuration_utils.py")
    classes = [node for node in ast.walk(own) if isinstance(node, ast.ClassDef)]
    classes.append(installed_source.find(common, "PreTrainedConfig"))
    found = {name for node in classes for name in installed_source.fields(node)}
    found |= {
        target.id
        for node in classes
        for part in node.body
        if isinstance(part, ast.Assign)
        for target in part.targets
        if isinstance(target, ast.Name)
    }
    functions = [part for node in classes for part in node.body if isinstance(part, ast.FunctionDef)]
    for function in functions:
        if function.name == "__init__":
            found |= {argument.arg for argument in function.args.args}
        elif function.decorator_list:
            found.add(function.name)  # properties
    return found
