"""Judge the runs of a comparison: every run and the base answer the same prompts, and every two are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trl_ext.build.config import training_config
from trl_ext.comparison import tournament
from trl_ext.evaluation import answers
from trl_ext.evaluation.answers import Answer, AnswerSampling
from trl_ext.evaluation.judged import Subject, Watched, file_names, longest
from trl_ext.evaluation.judged_record import EXAMPLES
from trl_ext.evaluation.prompts import PromptChoice, Prompts, describe, find_prompts, fitting
from trl_ext.judging import open_judge
from trl_ext.judging.open_judge import JudgeChoice, Prepared
from trl_ext.judging.template import prompt_text
from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe
from trl_ext.runs import loaded
from trl_ext.runs.loaded import Opened
from trl_ext.support import atomic
from trl_ext.support.counts import count

BASE = "base"


@dataclass
class Judging:
    """Judges the runs of one comparison.

    Attributes:
        judges: Checked already.
        prompts: What all runs answer.
        sampling: How.
        log: Called with each message for the user.
        watched: Shows the progress of sampling and judging.
        base: Answers of the base by prompt, sampled once for all runs.
    """

    judges: list[Prepared]
    prompts: Prompts
    sampling: AnswerSampling
    log: Callable[[str], None]
    watched: Watched
    base: dict[str, Answer] = field(default_factory=dict)

    def answer(self, directory: Path, opened: Callable[[], Opened]) -> list[Answer]:
        """The answers of a run; those that are missing are sampled, and kept in its directory.

        Args:
            directory: Of the run.
            opened: Gives the run with its reference; called only if an answer is missing.
        """
        title = f"answers of {directory.name}"
        found = answers.answer(
            directory,
            self.prompts.prompts,
            self.sampling,
            opened,
            lambda items, total: self.watched(items, total, title),
            self.base,
        )
        for prompt, given in zip(map(answers.key, found.prompts), found.base, strict=True):
            self.base.setdefault(prompt, given)
        return found.tuned

    def examples(self, runs: Mapping[str, Path]) -> dict[str, list[dict[str, str]]]:
        """The first prompts with the answers of the base and of each run, which are kept, in the form of sampled completions."""
        found = {name: self.answer(path, Subject(path).load) for name, path in runs.items()}
        found[BASE] = [self.base[answers.key(prompt)] for prompt in self.prompts.prompts]
        prompts = [prompt_text(prompt) for prompt in self.prompts.prompts[:EXAMPLES]]
        return {
            name: [{"prompt": prompt, "text": answer.text} for prompt, answer in zip(prompts, each, strict=False)]
            for name, each in found.items()
        }

    def play(self, runs: Mapping[str, Path], directory: Path) -> list[dict[str, Any]]:
        """Let each judge compare every two of the base and the runs, and write `judged-<judge>.json` per judge.

        Args:
            runs: Directory of each run, by name.
            directory: Of the comparison.
        """
        of_runs = {name: self.answer(path, Subject(path).load) for name, path in runs.items()}
        of_base = [self.base[answers.key(prompt)] for prompt in self.prompts.prompts]
        everything = {BASE: of_base, **of_runs}
        beside = Subject(next(iter(runs.values()))).beside(self.prompts)
        pairs = count(len(everything) * (len(everything) - 1) // 2, "pairs")
        records = []
        for prepared in self.judges:
            self.log(f"{prepared.name} judges {pairs} of models on {describe(self.prompts)} …")
            judge = prepared.open(beside)
            record = tournament.play(prepared, judge, self.prompts.prompts, everything, self.watched)
            records.append(
                record
                | {
                    "prompts": {"source": self.prompts.name, "n": len(self.prompts.prompts)},
                    "sampling": asdict(self.sampling),
                }
            )
            del judge
            open_judge.free_memory()
        for record, name in zip(records, file_names([each.name for each in self.judges]), strict=True):
            atomic.write_json(directory / name, record)
        return records


def prepare(
    choices: Sequence[JudgeChoice],
    recipes: Sequence[Recipe],
    directory: Path,
    choice: PromptChoice,
    sampling: AnswerSampling,
    log: Callable[[str], None],
    watched: Watched,
) -> Judging:
    """Check the judges and find the prompts, before anything is trained or sampled.

    Args:
        choices: The judges.
        recipes: Of the runs, which started from one model. The prompts are those of the first one.
        directory: Of the comparison.
        choice: Which prompts are answered.
        sampling: How.
        log: Called with each message for the user.
        watched: Shows the progress.

    Raises:
        UserError: A judge or the prompts cannot be used.
    """
    recipe = recipes[0]
    base = adapter.base_name(recipe.get("model_name_or_path"))
    judges = open_judge.prepare(choices, base)
    found = find_prompts(recipe, training_config(recipe, directory), choice)
    for judge in judges:
        judge.check_columns([*found.columns])
    made = loaded.processor(recipe)
    found = fitting(found, getattr(made, "tokenizer", made), longest(base, recipe), sampling.max_new_tokens)
    for statement in found.statements:
        log(statement)
    return Judging(judges, found, sampling, log, watched)
