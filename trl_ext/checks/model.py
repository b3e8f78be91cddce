"""Rules about the model that training starts from."""

from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.support.paths import absent, is_path


@problem("model_name_or_path", recipe_only=True)
def model(s: Settings) -> Iterator[str]:
    name = s["model_name_or_path"]
    if not name and "model_name_or_path" in s.reported:
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


@problem("model_name_or_path", applies_to=lambda method: method.trains_scores)
def base_of_reward_model(s: Settings) -> Iterator[str]:
    folder = Path(s["model_name_or_path"] or "").expanduser()
    if adapter_folder.is_in(folder):
        yield (
            f"{s.where('model_name_or_path')} is an adapter. PPO loads a reward adapter on the base model alone, so the reward "
            f"model must be trained on the base too: name its base, {adapter_folder.base_of(folder)}."
        )


@problem("load_in_4bit", "load_in_8bit")
def one_quantisation(s: Settings) -> Iterator[str]:
    if s["load_in_4bit"] and s["load_in_8bit"]:
        yield f"{s.named('load_in_4bit', 'load_in_8bit')} are both true: keep one of them."


@problem("load_in_4bit", "load_in_8bit", "use_peft", "model_name_or_path")
def quantised_base(s: Settings) -> Iterator[str]:
    for key in ("load_in_4bit", "load_in_8bit"):
        if s[key] and not s["use_peft"] and not adapter_folder.is_continued(s["model_name_or_path"]):
            yield (
                f"{s.where(key)} freezes the base model, so nothing would be trained: add `use_peft: true` to train a LoRA "
                "adapter on it."
            )


@note("trust_remote_code", "model_name_or_path")
def remote_code(s: Settings) -> Iterator[str]:
    if s["trust_remote_code"]:
        yield (
            f"{s.where('trust_remote_code')} is true: Python code that comes with {s['model_name_or_path']} runs on this "
            "computer with all your rights."
        )


@note("model_revision", "model_name_or_path")
def revision(s: Settings) -> Iterator[str]:
    """The revision of an adapter in a local folder is that of its base on the Hub."""
    name = str(s["model_name_or_path"] or "")
    folder = Path(name).expanduser()
    if adapter_folder.is_in(folder):
        folder = Path(adapter_folder.base_of(folder) or "").expanduser()
    if s["model_revision"] not in (None, "main") and name and (name == EMBEDDED or (folder.is_dir() and folder.name)):
        source = "comes with trl-ext" if name == EMBEDDED else f"is read from the folder {folder}"
        yield f"{s.where('model_revision')} has no effect: the model {source}, and only models on the Hub have revisions."
