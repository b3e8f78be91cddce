"""Rules about the modules a LoRA is put on: they must exist in the model, judged where its files are on this computer."""

import re
from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.model_files import adapter, local, modules
from trl_ext.support import messages

ALL = "all-linear"


@problem("use_peft", "lora_target_modules", "model_name_or_path", "model_revision")
def lora_targets(s: Settings) -> Iterator[str]:
    """PEFT trains the targets it finds and is silent about the others as long as it finds one."""
    given, model = s["lora_target_modules"], s["model_name_or_path"]
    if not s["use_peft"] or not isinstance(given, list) or not given or given == [ALL] or not isinstance(model, str):
        return
    folder = _folder(s)
    there, linear = ([], []) if folder is None else modules.names(folder)
    if not there:
        return
    where = s.where("lora_target_modules")
    given = [target for target in given if str(target).rpartition(".")[2] != "lm_head"]  # see `adapter.head`
    if len(given) == 1 and not str(given[0]).isidentifier():  # TRL hands it to PEFT as a pattern
        yield from _pattern(where, str(given[0]), there, linear)
        return
    for target in map(str, given):
        if any(name == target or name.endswith(f".{target}") for name in there):
            continue
        if target == ALL:
            yield f"{where} names {ALL} and others. {ALL} already includes every linear layer: give it alone."
            continue
        near = messages.nearest(target.rpartition(".")[2], [ALL, *linear])
        meant = f"did you mean {near[0]}?" if near else "check its name."
        yield f"{where} names {messages.shown_text(target)}, which {model} does not have: {meant} {_all(linear)}"


@problem("use_peft", "lora_target_parameters", "model_name_or_path", "model_revision")
def lora_parameters(s: Settings) -> Iterator[str]:
    """PEFT only warns about parameters that do not exist. It takes a full name or its end, from a dot on."""
    given, model = s["lora_target_parameters"], s["model_name_or_path"]
    if not s["use_peft"] or not given or not isinstance(given, list) or not isinstance(model, str):
        return
    folder = _folder(s)
    if folder is None:
        return
    there = modules.parameters(folder)
    if not there:
        yield from _of_a_mixture(s.where("lora_target_parameters"), given, model, folder)
        return
    ends = sorted({".".join(name.split(".")[-2:]) for name in [*there, "lm_head.weight"]})  # which may be tied
    for target in map(str, given):
        if any(f".{name}".endswith(f".{target}") for name in [*there, *ends]):
            continue
        near = messages.nearest(target, ends)
        meant = f"did you mean {near[0]}?" if near else f"write one of {', '.join(ends)}, or more of its full name."
        yield f"{s.where('lora_target_parameters')} names {messages.shown_text(target)}, which {model} does not have: {meant}"


def _of_a_mixture(where: str, given: list, model: str, folder: Path) -> Iterator[str]:
    """Names that no parameter can have. The others are compared with the built model, before its weights are loaded."""
    of_files, of_experts = modules.last_names_of_a_mixture(folder), modules.names_of_experts(folder)
    for target in map(str, given):
        path, _, last = target.rpartition(".")
        known = of_files or (of_experts if path.split(".")[-1] == "experts" else set())
        if known and last not in known:
            near = messages.nearest(last, sorted(known))
            meant = (
                f"did you mean {near[0]}?"
                if near
                else "weights of experts are experts.gate_up_proj and experts.down_proj."
            )
            yield f"{where} names {messages.shown_text(target)}, which {model} does not have: {meant}"


def _folder(s: Settings) -> Path | None:
    """The folder of the model; `None` if it has to be downloaded, or is an adapter, which has its own targets."""
    found = local.folder(s["model_name_or_path"], s["model_revision"])
    return None if found is None or adapter.is_in(found) else found


def _pattern(where: str, pattern: str, there: list[str], linear: list[str]) -> Iterator[str]:
    try:
        if not any(name.startswith("model.") for name in there) or any(re.fullmatch(pattern, name) for name in there):
            return
    except re.error as error:
        yield f"{where} is {messages.shown_text(pattern)}, which is neither a name nor a pattern ({error}). {_all(linear)}"
        return
    if re.fullmatch(r"\w+([, ]+\w+)+", pattern):
        yield f"{where} is {messages.shown_text(pattern)}: write the names as a list, [{', '.join(re.split('[, ]+', pattern))}]."
        return
    yield f"{where} is {messages.shown_text(pattern)}, a pattern that no module's full name matches. {_all(linear)}"


def _all(linear: list[str]) -> str:
    return f"Its linear layers are {', '.join(linear)}; `{ALL}` selects all of them except the head."
