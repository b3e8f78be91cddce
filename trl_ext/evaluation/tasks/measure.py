"""Ask the base and the tuned model the same tasks, and compare their results document by document."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs

from trl_ext.evaluation.tasks import differences, harness
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.differences import Compared
from trl_ext.evaluation.tasks.folder import first_line
from trl_ext.evaluation.tasks.model import LoadedModel, Watched
from trl_ext.runs.loaded import Opened
from trl_ext.support.counts import count, were
from trl_ext.support.errors import UserError

Values = dict[str, dict[int, Any]]
"""Metric → document → its value, or what the metric's aggregation takes."""

ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    jinja2.TemplateError,
)
"""What a task's own code and templates raise."""

UNPRINTED = "none"
"""The harness' name for a task's only filter."""

CORPUS_METRICS = {"bleu": 100, "chrf": 100, "chrf++": 100, "ter": 100}
"""Resamples of metrics that take long, as in the harness."""


class Measured(NamedTuple):
    """Results of a task.

    Attributes:
        metrics: By name, in the task's order.
        n: Number of documents with a result, by metric.
        higher_is_better: By metric; `None` where the task does not say.
    """

    metrics: dict[str, Compared]
    n: dict[str, int]
    higher_is_better: dict[str, bool | None]


class Measurement:
    """Measures tasks on the two models of a run, one after the other.

    Args:
        opened: The run, with its reference.
        choice: How tasks are measured.
        log: Called with each message for the user.
        watched: Shows the progress of requests.
    """

    def __init__(self, opened: Opened, choice: TaskChoice, log: Callable[[str], None], watched: Watched) -> None:
        self._opened, self._choice, self._log = opened, choice, log
        self._known: dict[str, Measured] = {}
        with opened.reference() as model, harness.silenced():
            self._models = {
                who: LoadedModel(each, opened.tokenizer, choice.batch_size, watched)
                for who, each in (("base", model), ("tuned", opened.model))
            }

    def compare(self, name: str, task: Task) -> Measured:
        """Measure a task, once.

        Raises:
            UserError: It fails, or it has no result that is a number.
        """
        if name not in self._known:
            self._known[name] = self._measured(name, task)
        return self._known[name]

    def _measured(self, name: str, task: Task) -> Measured:
        self._check_length(name, task)
        cut = self._models["tuned"].cut
        with self._opened.reference():
            base = self._values(name, task, "base")
        tuned = self._values(name, task, "tuned")
        if (n := self._models["tuned"].cut - cut) > 0:
            self._log(
                f"{count(n, 'requests')} of {name} {were(n)} longer than the model's context of {self._models['tuned'].max_length:,} "
                "tokens. The harness cut off the beginning."
            )
        found = {metric: _compared(task, metric, base[metric], tuned.get(metric, {})) for metric in base}
        found = {metric: each for metric, each in found.items() if each is not None}
        if not found:
            raise UserError(
                f"The task {name} gives no metric that is a number, so there is nothing to compare. Leave it out."
            )
        return Measured(
            {metric: compared for metric, (_, compared) in found.items()},
            {metric: n for metric, (n, _) in found.items()},
            {metric: task.higher_is_better().get(metric.split(",")[0]) for metric in found},
        )

    def _check_length(self, name: str, task: Task) -> None:
        """The harness asserts that a completion leaves room for a prompt."""
        if task.OUTPUT_TYPE != "generate_until":
            return
        model = self._models["tuned"]
        longest = normalize_gen_kwargs(task.get_config("generation_kwargs") or {}, model.max_gen_toks)["max_gen_toks"]
        if longest >= model.max_length:
            raise UserError(
                f"The task {name} generates up to {longest:,} tokens, and the model's context has {model.max_length:,}. Set a smaller "
                "`max_gen_toks` in the task's `generation_kwargs`, or leave the task out."
            )

    def _values(self, name: str, task: Task, who: str) -> Values:
        model = self._models[who]
        model.title = f"{name}, {who}"
        _seed(task)
        try:
            with harness.silenced():
                found = evaluate(
                    lm=model,
                    task_dict={"tasks": {name: task}},
                    limit=self._choice.limit,
                    bootstrap_iters=0,
                    apply_chat_template=self._choice.apply_chat_template,
                    fewshot_as_multiturn=self._choice.apply_chat_template,
                )
        except ERRORS as error:
            raise UserError(
                f"The task {name} failed with {type(error).__name__}: {first_line(error)}. Correct its file, or leave the task out."
            ) from error
        values: Values = {}
        for sample in found["samples"][name]:
            for metric in sample["metrics"]:
                label = metric if sample["filter"] == UNPRINTED else f"{metric},{sample['filter']}"
                values.setdefault(label, {})[sample["doc_id"]] = sample[metric]
        return values


def _compared(task: Task, metric: str, base: dict[int, Any], tuned: dict[int, Any]) -> tuple[int, Compared] | None:
    """The number of documents that both models have a result for, and the comparison; `None` if the metric is no number."""
    documents = [document for document in base if document in tuned]
    before, after = ([values[document] for document in documents] for values in (base, tuned))
    name = metric.split(",")[0]
    aggregate = task.aggregation().get(name, mean)
    if not documents:
        return None
    if aggregate is mean:
        numeric = all(map(differences.is_number, [*before, *after]))
        return (len(documents), differences.of_means(before, after)) if numeric else None
    with contextlib.suppress(*ERRORS):
        resamples = CORPUS_METRICS.get(name, differences.RESAMPLES)
        compared = differences.of_aggregates(aggregate, before, after, resamples=resamples)
        if all(differences.is_number(estimate.value) for estimate in compared):
            return len(documents), compared
    return None


def _seed(task: Task) -> None:
    """Set the seeds that the harness sets before it evaluates, so that both models see the same examples."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
