"""Rule about the first rows of a local data file: broken rows, missing columns, data that the method cannot learn from."""

from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.data.files.problems import find_problem, problem_of_folder
from trl_ext.data.formats import CHOICES
from trl_ext.data.formats.pairing import HOW, Pairing
from trl_ext.data.missing_columns import missing
from trl_ext.data.recognise_file import recognise_file, sample_of_file
from trl_ext.support.errors import UserError


@problem(
    "dataset_name",
    "datasets",
    "dataset_format",
    "dataset_columns",
    "dataset_pairs",
    "dataset_pair_margin",
    recipe_only=True,
)
def first_rows(s: Settings) -> Iterator[str]:
    name, where = s["dataset_name"], s.where("dataset_name")
    if not isinstance(name, str) or s["datasets"]:
        return
    if s["dataset_format"] not in (None, *CHOICES):  # reported by `trl_ext.checks.data`
        return
    path = Path(name).expanduser()
    if (reason := problem_of_folder(path) if path.is_dir() else find_problem(path)) is not None:
        yield f"{where} is {name}, which cannot be read: {reason}"
        return
    pairing = Pairing()
    if s.method.reads_preferences and s["dataset_pairs"] in HOW:
        pairing = Pairing(s["dataset_pairs"], s["dataset_pair_margin"] or 0.0)
    try:
        found = recognise_file(name, s["dataset_columns"], s["dataset_format"] or "auto", pairing)
    except UserError as error:
        if s.method.reads_preferences:  # prompts alone, or completions without a label, are enough for other methods
            yield from error.problems
        return
    if found is not None and s.loss is not None and s.method.reads_preferences:
        sample = sample_of_file(name, s["dataset_columns"])
        for column in s.loss.columns:
            if sample is not None and not sample.has(column):
                yield missing(f"{where} is {name}, which", column, s.loss.name)
    is_loss_known = s.loss is not None or not s.method.has_loss
    if found is not None and not found.paired and s.method.is_paired and is_loss_known:
        what, remedy = ("a reward model", "Choose data")
        if s.method.has_loss:
            what, remedy = ("the loss", "Choose a loss on labelled completions (`--loss kto`), or data")
        yield (
            f"{where} is {name}, which has single completions with labels, and {what} compares pairs. {remedy} with chosen "
            "and rejected completions."
        )
