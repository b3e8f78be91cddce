"""What can be known to be wrong before any weights or data are read. One check, one function.

A check gets the merged `Settings` and yields sentences: what was given, why it cannot work, what to do next.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from trl_ext import schema
from trl_ext.demo import EMBEDDED
from trl_ext.folders import adapter as adapter_folder
from trl_ext.losses import LossInfo, MixInfo
from trl_ext.recipe import online, ppo
from trl_ext.recipe.bounds import BOUNDS, outside
from trl_ext.recipe.obsolete import line
from trl_ext.recipe.paths import absent, in_full, is_path
from trl_ext.recipe.settings import Settings
from trl_ext.recipe.vocabulary import dataset_formats

DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".gz", ".txt", ".tsv", ".arrow", ".zst")

SEVERAL_GPUS = "Remove it, and use `accelerate launch --multi_gpu` for several GPUs."


def check(settings: Settings, kind: str = "paired", loss: LossInfo | MixInfo | None = None) -> list[str]:
    """All sentences of all checks, in the order of the functions below.

    Args:
        kind: What kind of training it is, a key of `schema.CONFIGS`.
        loss: What is trained, if it is a loss and there is such a one.
    """
    of_kind = {"ppo": ppo.CHECKS, "online": online.checks(loss), "reward": (base_of_reward,)}.get(kind, ())
    general = [one for one in CHECKS if kind != "ppo" or one.__name__ not in ppo.REPLACED]
    return [problem for one in (*general, *of_kind) for problem in one(settings)]


def notes(s: Settings, kind: str = "paired") -> list[str]:
    """Sentences about what is no mistake but may not be what was meant."""
    found = []
    if s["datasets"] and s["dataset_name"]:
        found.append(f"{s.named('datasets', 'dataset_name')}: the mixture is used, dataset_name is not.")
    if s["eval_size"] and s["eval_strategy"] in (None, "no"):
        found.append(
            f"{s.where('eval_size')} holds examples out, and without `eval_strategy` the run does not look at them; `trl-ext eval` and `compare` do."
        )
    if s["trust_remote_code"]:
        found.append(
            f"{s.where('trust_remote_code')} is on: Python code that comes with {s['model_name_or_path']} is run on this "
            "computer, with all your rights."
        )
    if s["padding_free"] and kind != "sft":
        found.append(f"{s.where('padding_free')} has no effect since TRL 1.0.")
    found += continued_adapter(s)
    return [*found, *{"ppo": ppo.notes, "online": ppo.users_code}.get(kind, lambda s: [])(s)]


def bounds(s: Settings) -> Iterator[str]:
    yield from outside(s, BOUNDS)


def row_budget(s: Settings) -> Iterator[str]:
    if isinstance(s["row_tokens"], str) and s["row_tokens"] != "auto":
        yield f"{s.where('row_tokens')} is {s['row_tokens']!r}: give a number of tokens, or 'auto'."


def model(s: Settings) -> Iterator[str]:
    name = s["model_name_or_path"]
    if not name and "model_name_or_path" in s.meant:
        return
    if not name:
        yield (
            "`model_name_or_path` is missing: give a Hub name (org/name), a local folder, or 'embedded' for "
            "the small model that comes with trl-ext."
        )
        return
    if name == EMBEDDED:
        return
    path = Path(name).expanduser()
    where = s.where("model_name_or_path")
    if path.is_file():
        yield f"{where} is the file {name}: name the folder that holds config.json and the weights."
    elif path.is_dir() and not any((path / file).exists() for file in ("config.json", adapter_folder.CONFIG)):
        inside = sorted(file.parent for file in path.glob("*/*config.json"))
        hint = f"did you mean {inside[-1]}?" if inside else "name the folder a model was saved in."
        yield f"{where} is the folder {name}, which holds no config.json: {hint}"
    elif not path.exists() and is_path(name):
        yield f"{where} is {name}, and {absent(path, 'folder')}"


def dataset(s: Settings) -> Iterator[str]:
    if s["datasets"]:
        yield from _mixture(s)
    elif not s["dataset_name"] and not s.meant & {"dataset_name", "datasets"}:
        yield (
            "`dataset_name` is missing: give a Hub name (org/name), a local file (JSON, JSONL, CSV, Parquet) "
            "or folder, or 'embedded' for the preference set that comes with trl-ext."
        )
    elif problem := _dataset_path(s["dataset_name"] or EMBEDDED):
        yield f"{s.where('dataset_name')} {problem}"


def columns(s: Settings) -> Iterator[str]:
    mapping = s["dataset_columns"]
    if mapping and not all(isinstance(column, str) for column in mapping.values()):
        yield (
            f"{s.where('dataset_columns')} maps to something that is not a column's name: write "
            f"{line('dataset_columns', {'prompt': 'question', 'chosen': 'good', 'rejected': 'bad'})}."
        )


def dataset_format(s: Settings) -> Iterator[str]:
    if "dataset_format" in s and s["dataset_format"] not in dataset_formats():
        meant = schema.one_of(s["dataset_format"], dataset_formats())
        yield f"{s.where('dataset_format')} is {s['dataset_format']}: {meant}"


def environment(s: Settings) -> Iterator[str]:
    values = s["env"]
    if values is not None and (
        not isinstance(values, dict) or any(isinstance(value, (dict, list)) for value in values.values())
    ):
        yield f"{s.where('env')} is not a mapping of names to values: write {line('env', {'NAME': 'value'})}."


def quantisation(s: Settings) -> Iterator[str]:
    if s["load_in_4bit"] and s["load_in_8bit"]:
        yield f"{s.named('load_in_4bit', 'load_in_8bit')} are both true: keep one of them."
    for key in ("load_in_4bit", "load_in_8bit"):
        if s[key] and not s["use_peft"]:
            yield (
                f"{s.where(key)} freezes the base model, so nothing would be trained: "
                f"add {line('use_peft', True)} to train a LoRA on it."
            )


def adapter(s: Settings) -> Iterator[str]:
    keys = [key for key in schema.model() if key.startswith(("lora_", "use_rslora", "use_dora"))]
    ignored = [key for key in s if key in keys and s[key]]
    if ignored and "use_peft" not in s:
        yield f"{s.named(*ignored)} would be ignored without an adapter: add {line('use_peft', True)}."
    if _targets_the_head(s["lora_target_modules"] or []):
        yield (
            f"{s.where('lora_target_modules')} includes lm_head, whose weight is read directly when "
            "log-probabilities are computed, so a LoRA on it would never be trained: remove lm_head "
            f"({line('lora_target_modules', 'all-linear')} is every other linear layer)."
        )


def precision(s: Settings) -> Iterator[str]:
    if s["bf16"] and s["fp16"]:
        yield f"{s.named('bf16', 'fp16')} are both true: keep bf16 (Ampere GPUs and newer) or fp16."


def unsupported(s: Settings) -> Iterator[str]:
    reasons = {
        "deepspeed": f"it counts accumulation steps itself. {SEVERAL_GPUS}",
        "fsdp": f"each GPU holds the whole base model. {SEVERAL_GPUS}",
        "auto_find_batch_size": "after running out of memory it restarts at step 0 with another effective "
        "batch. Remove it, and lower `row_tokens`, which never changes the result.",
        "label_smoothing_factor": "no preference loss reads it. Write `label_smoothing` if yours has it.",
    }
    for key, reason in reasons.items():
        if s[key]:
            yield f"{s.where(key)} is not supported: {reason}"


def reference_refresh(s: Settings) -> Iterator[str]:
    where = s.where("sync_ref_model")
    if not s["sync_ref_model"]:
        if ignored := [key for key in ("ref_model_sync_steps", "ref_model_mixup_alpha") if key in s]:
            yield f"{s.named(*ignored)} would be ignored: add {line('sync_ref_model', True)}."
        return
    if s["precompute_ref_log_probs"]:
        yield (
            f"{s.named('sync_ref_model', 'precompute_ref_log_probs')} are both true, and values computed before the run "
            "are of no use to a reference that changes during it: keep one of them."
        )
    if s["ref_model_mixup_alpha"] == 0:
        yield (
            f"{s.where('ref_model_mixup_alpha')} is 0, which leaves the reference where it is: give up to 1 (a copy of "
            f"the policy), or remove {where}."
        )
    for key in ("use_dora", "lora_modules_to_save"):
        if s["use_peft"] and s[key]:
            yield f"{where} mixes plain LoRA adapters, and {s.where(key)} makes it more than one: keep one of them."


def checkpoint(s: Settings) -> Iterator[str]:
    given = s["resume_from_checkpoint"]
    if not isinstance(given, str):
        return
    path = Path(given).expanduser()
    found = sorted(path.glob("checkpoint-*"), key=os.path.getmtime) if path.is_dir() else []
    if not path.is_dir():
        yield f"{s.where('resume_from_checkpoint')} is {given}, and {absent(path, 'folder')}"
    elif not (path / "trainer_state.json").exists():
        hint = f"did you mean {found[-1]}?" if found else "name a folder called checkpoint-…, or give true."
        yield f"{s.where('resume_from_checkpoint')} is {given}, which holds no trainer_state.json: {hint}"


def output(s: Settings) -> Iterator[str]:
    given = s["output_dir"]
    if not isinstance(given, str):
        return
    path = Path(given).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        yield f"{s.where('output_dir')} is {given}, and {there} is a file: name a folder, which need not exist yet."
    elif not os.access(there, os.W_OK):
        yield f"{s.where('output_dir')} is {given}, and {there} cannot be written to: name another folder."


def best_model(s: Settings) -> Iterator[str]:
    if s["load_best_model_at_end"] and s["eval_strategy"] in (None, "no"):
        yield (
            f"{s.where('load_best_model_at_end')} needs evaluations to tell which is best: add "
            f"{line('eval_strategy', 'steps')} and {line('save_strategy', 'steps')}."
        )


def base_of_reward(s: Settings) -> Iterator[str]:
    folder = Path(s["model_name_or_path"] or "").expanduser()
    if adapter_folder.is_in(folder):
        yield (
            f"{s.where('model_name_or_path')} is an adapter, and PPO puts a reward adapter on the bare base: name its base, "
            f"{adapter_folder.base_of(folder)}."
        )


def continued_adapter(s: Settings) -> Iterator[str]:
    """Notes on settings of a new adapter in a recipe that goes on from one."""
    folder = Path(s["model_name_or_path"] or "")
    theirs = adapter_folder.config(folder)
    for key, field in (("lora_r", "r"), ("lora_alpha", "lora_alpha"), ("lora_target_modules", "target_modules")):
        ours, given = s[key], theirs.get(field)
        if isinstance(ours, list) and isinstance(given, list):
            # `all-linear` and patterns are written out in what PEFT saves.
            are_names = all(str(name).isidentifier() for name in [*ours, *given])
            ours, given = (", ".join(sorted(map(str, names))) if are_names else None for names in (ours, given))
        if key in s and isinstance(given, type(ours)) and ours != given:
            yield (
                f"{s.where(key)} is {ours} and has no effect: the adapter in {folder}, which is continued, has {given}."
            )


CHECKS = (
    model,
    dataset,
    columns,
    dataset_format,
    environment,
    bounds,
    row_budget,
    quantisation,
    adapter,
    precision,
    unsupported,
    reference_refresh,
    checkpoint,
    output,
    best_model,
)


def _targets_the_head(targets: list[str]) -> bool:
    """Whether LoRA targets, names or ends of names, include lm_head; a single one may be a pattern."""
    if any(str(target).rpartition(".")[2] == "lm_head" for target in targets):
        return True
    try:
        return len(targets) == 1 and re.fullmatch(str(targets[0]), "lm_head") is not None
    except re.error:
        return False


def _mixture(s: Settings) -> Iterator[str]:
    known = schema.fields("DatasetConfig")
    entries = s["datasets"] if isinstance(s["datasets"], list) else [s["datasets"]]
    for number, entry in enumerate(entries, 1):
        where = f"Entry {number} of {s.where('datasets')}"
        if not isinstance(entry, dict) or not entry.get("path"):
            example = line("datasets", [{"path": "org/name", "split": "train"}])
            yield f"{where} names no dataset: write {example}."
            continue
        for key, value in entry.items():
            if key not in known:
                meant = schema.one_of(str(key), tuple(known))
                yield f"{where}: `{schema.shown_text(str(key))}` is not a setting of a dataset: {meant}"
                continue
            try:
                schema.convert(known[key], value)
            except ValueError as error:
                yield f"{where}: `{key}` {error}"
        if isinstance(entry["path"], str) and (problem := _dataset_path(entry["path"])):
            yield f"{where}: `path` {problem}"
    shares = [isinstance(entry, dict) and entry.get("fraction") is not None for entry in entries]
    if any(shares) and not all(shares):
        yield f"{s.where('datasets')}: give every entry a `fraction`, or none."


def _dataset_path(name: str) -> str | None:
    """The end of a sentence about a dataset's path that is not there; `None` if it may be a Hub name."""
    try:
        path = Path(in_full(name))
    except ValueError as error:
        return str(error)
    if name == EMBEDDED or path.exists():
        return None
    if name.endswith(DATA_FILES) or is_path(name):
        return f"is {name}, and {absent(path, 'file or folder')}"
    return None
