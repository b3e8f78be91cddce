"""Make the judge that a SOURCE stands for: first everything that needs no model, so that errors come before sampling."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.checks import judge_source, reward_names
from trl_ext.judging.api_settings import ApiSettings
from trl_ext.judging.judge import Judge, Prompt
from trl_ext.judging.kept_verdicts import KeptJudge, identity
from trl_ext.judging.scores import ScoreJudge, Scorer
from trl_ext.judging.template import Template
from trl_ext.model_files import adapter
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined

OF_API = ("model", "base_url", "concurrency", "timeout", "retries", "max_tokens", "temperature")
"""The fields of `ApiSettings`."""


@dataclass(frozen=True)
class JudgeChoice:
    """What the user said about a judge. `None` stands for the default."""

    source: str
    """A reward function, a folder or Hub name of a reward model or language model, `api`, an address, each with an optional prefix
    of `judge_source.KINDS`."""
    model: str | None = None
    """Model behind an API."""
    base_url: str | None = None
    """Address of the API."""
    template: str | None = None
    """File with the text that an API or a language model reads."""
    concurrency: int | None = None
    """As the fields of `ApiSettings`, like those below."""
    timeout: float | None = None
    retries: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    revision: str | None = None
    """Commit, branch or tag of a model on the Hub."""
    load_in_4bit: bool = False
    """Whether a language model is quantised."""


class Beside:
    """What is at hand when a judge is opened: the model that is evaluated and the rows of its prompts.

    Args:
        tokenizer: Loads the tokenizer of the evaluated model.
        policy: Loads the evaluated model; called only for a judge that shares its base.
        release: Frees the evaluated model, so that a judge has its memory; does nothing where others still need it.
        columns: Other columns of the prompts' rows by name, for reward functions, a value per prompt.
        prompts: The prompts of these rows.
    """

    def __init__(
        self,
        tokenizer: Callable[[], Any],
        policy: Callable[[], Any],
        release: Callable[[], None],
        prompts: Sequence[Prompt],
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        self.tokenizer, self.policy, self.release = tokenizer, policy, release
        self.prompts, self.columns = prompts, columns


@dataclass(frozen=True)
class Prepared:
    """A judge that passed every check which needs no model of its own.

    Attributes:
        name: For tables and files.
        kind: One of `judge_source.KINDS`.
        facts: Settings of the judge for the record, without any key.
        open: Makes the judge.
        check_columns: Called with the names of the prompts' columns before anything is sampled.
        scorer: Makes what scores completions one by one; `None` for a judge that compares two.
    """

    name: str
    kind: str
    facts: dict[str, Any]
    open: Callable[[Beside], Judge]
    check_columns: Callable[[Sequence[str]], None] = lambda names: None
    scorer: Callable[[Beside], Scorer] | None = None


def prepare(choices: Sequence[JudgeChoice], base: str | None = None) -> list[Prepared]:
    """Check judges. One that is behind an API is made, and asked one short question.

    Args:
        choices: What the user said. Settings that a judge does not read are ignored here; `checks.evaluation_parts` refuses them.
        base: Name or path of the base of the evaluated model, which a reward adapter must share.

    Raises:
        UserError: A judge cannot judge; or its API cannot be reached, refuses the key, or does not have the model.
    """
    kinds = [_kind(choice, base) for choice in choices]
    makers = {"function": _function, "reward": _reward, "model": _model, "api": _api}
    return [
        makers[kind](choice, judge_source.parse(choice.source).place)
        for choice, kind in zip(choices, kinds, strict=True)
    ]


def _kind(choice: JudgeChoice, base: str | None) -> str:
    given = {"model": choice.model, "revision": choice.revision, "base": base}
    if (wrong := judge_source.problem(choice.source, **given)) is not None:
        raise UserError(f"The judge is {choice.source}, {wrong}")
    kind = judge_source.parse(choice.source).kind
    return _kind_on_hub(choice) if kind == "hub" else kind


def _kind_on_hub(choice: JudgeChoice) -> str:
    """`reward` or `model`, from a model's configuration on the Hub."""
    from trl_ext.model_files.available import require_model

    require_model(choice.source, choice.revision)
    from transformers import AutoConfig

    try:
        names = AutoConfig.from_pretrained(choice.source, revision=choice.revision).architectures or []
    except (OSError, ValueError) as error:
        raise UserError(f"The judge is {choice.source}, which cannot be read: {str(error).splitlines()[0]}") from error
    return "reward" if any(name.endswith("ForSequenceClassification") for name in names) else "model"


def _function(choice: JudgeChoice, place: str) -> Prepared:
    from trl_ext.build import rewards
    from trl_ext.judging.scorers import function_scorer

    function = rewards.load(place)
    source = reward_names.parse(place)
    name = place if source.kind == "known" else getattr(function, "__name__", source.function or place)

    def scorer(beside: Beside) -> Scorer:
        return function_scorer(function, beside.tokenizer(), beside.prompts, beside.columns)

    def open_it(beside: Beside) -> Judge:
        return ScoreJudge(name, scorer(beside))

    def check_columns(names: Sequence[str]) -> None:
        lacking = sorted(_required(function) - reward_names.PASSED - {*names})
        if lacking:
            raise UserError(
                f"The judge {name} reads {joined([f'`{each}`' for each in lacking])}, which the prompts do not come with. Add the "
                f"column to the data with the prompts, or choose another judge."
            )

    return Prepared(name, "function", {"source": reward_names.absolute(place)}, open_it, check_columns, scorer)


def _required(function: Callable) -> set[str]:
    """Names of the arguments without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name for each in parameters if each.kind in named and each.default is inspect.Parameter.empty}


def _reward(choice: JudgeChoice, place: str) -> Prepared:
    folder, name = Path(place).expanduser(), _short(place)
    is_adapter = folder.is_dir() and adapter.is_in(folder)

    def on_the_base(beside: Beside) -> Scorer:
        from trl_ext.judging.scorers import adapter_scorer

        return adapter_scorer(place, beside.policy(), beside.tokenizer())

    def whole(beside: Beside) -> Scorer:
        from trl_ext.judging.local_model import load_classifier
        from trl_ext.judging.scorers import classifier_scorer

        beside.release()
        return classifier_scorer(*load_classifier(place, choice.revision, choice.load_in_4bit), place)

    def make(beside: Beside) -> Judge:
        return ScoreJudge(name, scorer(beside))

    scorer = on_the_base if is_adapter else whole
    facts = _facts(choice, place)
    return Prepared(
        name,
        "reward",
        facts,
        lambda beside: _kept(name, False, facts, choice, place, lambda: make(beside)),
        scorer=scorer,
    )


def _model(choice: JudgeChoice, place: str) -> Prepared:
    template = None if choice.template is None else Template.load(choice.template, needs_marks=False)
    name = _short(place)

    def make(beside: Beside) -> Judge:
        from trl_ext.judging import local_model
        from trl_ext.judging.causal_model import LETTERS, CausalModelJudge

        beside.release()
        model, tokenizer = local_model.load(place, revision=choice.revision, load_in_4bit=choice.load_in_4bit)
        words = template.marks or LETTERS if template else LETTERS
        return CausalModelJudge(name, model, tokenizer, template.render if template else None, words)

    facts = _facts(choice, place) | {"template": choice.template}
    text = {"template": template.text if template else None}
    return Prepared(
        name, "model", facts, lambda beside: _kept(name, True, facts | text, choice, place, lambda: make(beside))
    )


def _facts(choice: JudgeChoice, place: str) -> dict[str, Any]:
    folder = Path(place).expanduser()
    source = str(folder.resolve()) if folder.is_dir() else place
    return {"source": source, "revision": choice.revision, "load_in_4bit": choice.load_in_4bit}


def _kept(
    name: str, has_position: bool, facts: dict[str, Any], choice: JudgeChoice, place: str, make: Callable[[], Judge]
) -> KeptJudge:
    """The judge with its verdicts kept on disk."""
    place = str(demo.MODEL) if place == demo.EMBEDDED else place
    return KeptJudge(name, has_position, {**facts, "files": identity(place, choice.revision)}, make)


def _api(choice: JudgeChoice, place: str) -> Prepared:
    from trl_ext.judging.api import ApiJudge

    found = judge_source.JudgeSource("api", place)
    given = {name: getattr(choice, name) for name in OF_API if getattr(choice, name) is not None}
    given |= {"model": choice.model or found.served} | ({"base_url": found.url} if found.url else {})
    settings = ApiSettings(**given)
    template = Template.load(choice.template) if choice.template else None
    judge = ApiJudge(settings, template)
    judge.check()
    facts = {"model": settings.model, "base_url": settings.base_url, "template": choice.template}
    return Prepared(settings.model, "api", facts, lambda beside: judge)


def _short(place: str) -> str:
    """The last parts of a path, or a name on the Hub."""
    return "/".join(Path(place).parts[-2:]) if "/" in place else place


def slug(name: str) -> str:
    """A judge's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "judge"


def free_memory() -> None:
    """Give memory that is no longer used back to the device."""
    from accelerate.utils.memory import clear_device_cache

    gc.collect()
    clear_device_cache()
