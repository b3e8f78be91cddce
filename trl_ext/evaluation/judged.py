"""Judge a finished run against the model it started from: win rate, position bias, length control, agreement.

`judge_run` is the whole of `trl-ext eval RUN --judge`: it checks the judges, samples what is missing, judges, and writes a
record per judge into the run's directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trl_ext.build.config import training_config
from trl_ext.evaluation import answers, judged_record
from trl_ext.evaluation.answers import AnswerSampling
from trl_ext.evaluation.judged_record import Judged
from trl_ext.evaluation.prompts import PromptChoice, Prompts, describe, find_prompts, fitting
from trl_ext.judging import open_judge
from trl_ext.judging.judge import Judge, Prompt, Question, Verdict
from trl_ext.judging.open_judge import Beside, JudgeChoice, Prepared
from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe
from trl_ext.runs import finished, loaded
from trl_ext.runs.load import open_model
from trl_ext.runs.loaded import Opened
from trl_ext.support import atomic
from trl_ext.support.counts import count

Watched = Callable[[Iterable, int, str], Iterable]
"""Iterates over so many items and shows the progress under a title."""


def judge_run(
    directory: Path,
    choices: Sequence[JudgeChoice],
    prompts: PromptChoice,
    sampling: AnswerSampling,
    log: Callable[[str], None],
    watched: Watched,
    opened: Opened | None = None,
) -> list[dict[str, Any]]:
    """Judge a run's answers against those of its base, and write `judged-<judge>.json` per judge into the run's directory.

    Answers are kept in the same directory (`evaluation.answers`), so that a second call with the same settings samples nothing.
    After an interrupt, the same call continues.

    Args:
        directory: Of the run or one of its checkpoints.
        choices: One or two judges.
        prompts: Which prompts are answered.
        sampling: How answers are sampled.
        log: Called with each message for the user.
        watched: Shows the progress of sampling and judging.
        opened: The run, if it is in memory; it stays there. Otherwise it is loaded if need be, and freed for a judge that needs
            memory of its own.

    Returns:
        A record per judge, as it is written; see `judged_record.record`.

    Raises:
        UserError: A judge, the prompts or the run cannot be used. Everything that can be known is refused before anything is
            sampled.
    """
    finished.check(directory)
    recipe = finished.recipe_at(directory, needs_data=prompts.file is None)
    judges = prepare(choices, directory)
    found = find_prompts(recipe, training_config(recipe, directory), prompts)
    for judge in judges:
        judge.check_columns([*found.columns])
    run = Subject(directory, opened)
    found = fitting(found, run.tokenizer(), run.longest(), sampling.max_new_tokens)
    for statement in found.statements:
        log(statement)
    given = answers.answer(
        directory,
        found.prompts,
        sampling,
        run.load,
        lambda items, n: watched(items, n, "answers of the run and its base"),
    )
    log(f"{describe(found)}: {_how(given)}")
    beside = run.beside(found)
    all_judged: list[Judged] = []
    names = file_names([judge.name for judge in judges])
    for each in judges:
        judge = each.open(beside)
        questions = pair(judge, given.prompts, given.tuned, given.base, watched)
        all_judged.append(Judged(each, *questions, usage=getattr(judge, "usage", None)))
        del judge
        open_judge.free_memory()
        records = [
            judged_record.record(
                judged, given, found, sampling, run.facts(), next((o for o in all_judged if o is not judged), None)
            )
            for judged in all_judged
        ]
        for record, name in zip(
            records, names, strict=False
        ):  # after each judge, so that an interrupt keeps those before it
            atomic.write_json(directory / name, record)
    return records


def prepare(choices: Sequence[JudgeChoice], directory: Path) -> list[Prepared]:
    """Check the judges of a run; one behind an API is asked a short question. See `open_judge.prepare`."""
    return open_judge.prepare(choices, adapter.base_name(str(directory)))


def pair(
    judge: Judge,
    prompts: Sequence[Prompt],
    first: Sequence[answers.Answer],
    second: Sequence[answers.Answer],
    watched: Watched,
    title: str = "",
) -> tuple[list[Verdict], list[Verdict] | None, list[bool]]:
    """Ask a judge about two answers to each prompt, in both orders if the order may matter.

    Both orders of a prompt are asked one after the other, so that an interrupted evaluation keeps whole prompts. Equal answers are
    a tie, and the judge is not asked.

    Args:
        judge: The judge.
        prompts: What was answered.
        first: An answer to each prompt.
        second: Another answer to each prompt.
        watched: Shows the progress.
        title: What the progress counts (default: the verdicts of this judge).

    Returns:
        The verdicts with `first` before `second`; those with the answers swapped, as the judge gave them, or `None`; and whether
        the judge was asked about a prompt.
    """
    asked = [one.text != other.text for one, other in zip(first, second, strict=True)]
    questions = [
        Question(prompt, one.text, other.text)
        for prompt, one, other, differs in zip(prompts, first, second, asked, strict=True)
        if differs
    ]
    orders = 2 if judge.has_position else 1
    if judge.has_position:
        questions = [each for question in questions for each in (question, question.swapped())]
    title = title or f"verdicts of {judge.name}"
    given = list(watched(judge.verdicts(questions), len(questions), title)) if questions else []
    columns = [iter(given[order::orders]) for order in range(orders)]
    verdicts = [[next(column) if differs else Verdict.TIE for differs in asked] for column in columns]
    return verdicts[0], verdicts[1] if judge.has_position else None, asked


def file_names(judges: Sequence[str]) -> list[str]:
    """`judged-<judge>.json` for each judge, numbered where two judges have the same name."""
    names: list[str] = []
    for judge in judges:
        slug = open_judge.slug(judge)
        number = names.count(f"judged-{slug}.json")
        names.append(f"judged-{slug}-{number + 1}.json" if number else f"judged-{slug}.json")
    return names


def _how(given: answers.Answers) -> str:
    total = len(given.prompts)
    if not given.sampled:
        return f"all answers were kept by an earlier evaluation in {given.path.name}."
    before = f", {total - given.sampled:,} kept by an earlier evaluation" if given.sampled < total else ""
    return f"answers to {count(given.sampled, 'prompts')} sampled{before}."


class Subject:
    """A run that is judged, in memory only while something needs it.

    Args:
        directory: Of the run or one of its checkpoints.
        opened: The run, if it is in memory; it then stays there.
    """

    def __init__(self, directory: Path, opened: Opened | None = None) -> None:
        self._directory, self._opened, self._is_own = directory, opened, opened is None

    def load(self) -> Opened:
        """The run with its reference."""
        if self._opened is None:
            self._opened = open_model(self._directory, needs_reference=True)
            self._opened.add_reference()
        return self._opened

    def beside(self, found: Prompts) -> Beside:
        """What a judge may need besides itself."""
        return Beside(self.tokenizer, lambda: self.load().model, self._release, found.prompts, found.columns)

    def tokenizer(self) -> Any:
        """The run's tokenizer, with a padding token."""
        if self._opened is not None:
            return self._opened.tokenizer
        made = loaded.processor(finished.recipe_at(self._directory, needs_data=False))
        return getattr(made, "tokenizer", made)

    def facts(self) -> dict[str, Any]:
        """The run with its last optimizer step, and its base in words, for the record."""
        began = finished.written(self._directory)["model_name_or_path"]
        recipe = finished.recipe_at(self._directory, needs_data=False)
        described = self._opened or Opened(self._directory, recipe, began, None, None)
        step = finished.last_step(self._directory)
        return {"run": str(self._directory), "step": step, "base": described.base_in_words}

    def longest(self) -> int | None:
        """Tokens that the model takes; `None` if its configuration has no limit."""
        recipe = finished.recipe_at(self._directory, needs_data=False)
        return longest(adapter.base_name(str(self._directory)), recipe)

    def _release(self) -> None:
        if self._is_own and self._opened is not None:
            self._opened = None
            open_judge.free_memory()


def longest(base: str, recipe: Recipe) -> int | None:
    """Tokens that a model takes; `None` if its configuration has no limit, or cannot be read, which loading the model reports.

    Args:
        base: Folder or Hub name of the model.
        recipe: Of a run that started from it.
    """
    from transformers import AutoConfig

    revision, trust = recipe.get("model_revision") or "main", bool(recipe.get("trust_remote_code"))
    try:
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trust)
    except (OSError, ValueError):
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)
