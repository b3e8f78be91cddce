"""Read the SOURCE of a judge: a reward function, a reward model, a language model, or an API.

Nothing is imported or run here; `trl_ext.judging.open_judge` makes the judge that a source stands for.
"""

import re
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from trl_ext.checks import reward_names
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter, chat_template, local, reward, task
from trl_ext.support import messages

KINDS = ("function", "reward", "model", "api")
"""The prefixes that say which kind a source is where its name does not."""

WHAT = (
    "Name a reward function as in `reward_funcs`, the folder or the Hub name of a reward model or a language model, `api`, or the "
    "address of an API (http://localhost:11434/v1)."
)


class JudgeSource(NamedTuple):
    """A source in parts.

    Attributes:
        kind: One of `KINDS`; `hub` for a model on the Hub whose files are not on this computer; `nothing` if it is none of them.
        place: The source without its prefix.
    """

    kind: str
    place: str

    @property
    def url(self) -> str | None:
        """The address of an API, if that is what the place is."""
        return self.place if re.match(r"https?://", self.place) else None

    @property
    def served(self) -> str | None:
        """The name of a model behind an API, if that is what the place is."""
        return self.place if self.kind == "api" and self.place and self.url is None else None


def parse(source: str) -> JudgeSource:
    """Find out what a source is, by its name and by the files that it names."""
    if source == "api":
        return JudgeSource("api", "")
    if re.match(r"https?://", source):
        return JudgeSource("api", source)
    prefix, colon, rest = source.partition(":")
    if colon and rest and prefix in KINDS and not _is_function_of_module(source):
        return JudgeSource(prefix, rest)
    if source == EMBEDDED:
        return JudgeSource("model", source)
    kind = reward_names.parse(source).kind
    if kind != "model":
        return JudgeSource("nothing" if kind == "nothing" else "function", source)
    folder = Path(source).expanduser() if reward_names.is_local(source) else local.folder(source)
    if folder is None:
        return JudgeSource("hub", source)
    return JudgeSource("reward" if task.is_reward_model(folder) else "model", source)


def problem(
    source: str, *, model: str | None = None, revision: str | None = None, base: str | None = None
) -> str | None:
    """The end of a sentence about a source that cannot judge; `None` if it may.

    Args:
        source: As the user gave it.
        model: `judge_model`: the model behind an API.
        revision: Commit, branch or tag of a model on the Hub.
        base: Name or path of the base of the model that is evaluated; not compared if `None`.
    """
    found = parse(source)
    if re.match(r"[\w.-]+:\d+(/|$)", source):
        return f"which is not a judge. An address begins with http:// or https://: write http://{source}."
    match found.kind:
        case "nothing":
            hint = messages.nearest(source, [*reward_names.KNOWN, "api"])
            meant = f" Did you mean {messages.joined(hint, 'or')}?" if hint else ""
            return f"which is not a judge.{meant} {WHAT}"
        case "api":
            return _problem_of_api(found, model)
        case "function":
            return reward_names.problem(found.place)
        case "hub":
            return None
    if reward_names.is_local(found.place) and not Path(found.place).expanduser().is_dir():
        return f"and there is no such folder. {WHAT}"
    return (_problem_of_reward if found.kind == "reward" else _problem_of_model)(found.place, revision, base)


def _problem_of_api(found: JudgeSource, model: str | None) -> str | None:
    if not (model or found.served):
        return "which needs the name of a model. Set `judge_model` to a model that the API serves."
    if model and found.served and model != found.served:
        return f"but `judge_model` is {model!r}. Name one model."
    return None


def _problem_of_reward(place: str, revision: str | None, base: str | None) -> str | None:
    folder = Path(place).expanduser()
    if folder.is_dir() and adapter.is_in(folder):
        return reward.problem(place, base)
    if folder.is_dir() and not task.is_reward_model(folder):
        return "which is not a reward model: its config.json names no sequence classifier. Use `model:` for a language model."
    return None


def _problem_of_model(place: str, revision: str | None, base: str | None) -> str | None:
    folder = Path(place).expanduser()
    if folder.is_dir() and not adapter.is_in(folder) and not (folder / "config.json").exists():
        return f"which holds neither {adapter.CONFIG} nor config.json. Name the folder of a model or of a run."
    if folder.is_dir() and (what := task.not_a_language_model(folder)) is not None:
        return f"which is {what}, and no language model. Remove the prefix `model:`."
    template = chat_template.of_model(place, revision)
    if template is not None and template.text is None:
        return (
            "which has no chat template, so it cannot be asked a question. Choose an instruction-tuned model, or put a "
            "chat_template.jinja beside its tokenizer."
        )
    return None


def _is_function_of_module(source: str) -> bool:
    """Whether `reward:f` or `model:f` is the function f of a module with that name in this folder."""
    prefix = source.partition(":")[0]
    is_named = reward_names.parse(source).kind == "module" and not Path(source.partition(":")[2]).exists()
    return is_named and PathFinder.find_spec(prefix, [str(Path.cwd())]) is not None


def absolute(source: str) -> str:
    """The same source, named so that it is found from another directory."""
    found = parse(source)
    prefix = source.removesuffix(found.place) if found.place else ""
    if found.kind == "function":
        return prefix + reward_names.absolute(found.place)
    is_folder = (
        found.kind in ("reward", "model") and found.place != EMBEDDED and Path(found.place).expanduser().is_dir()
    )
    return prefix + str(Path(found.place).expanduser().resolve()) if is_folder else source
