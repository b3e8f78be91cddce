"""Check the first rows of a local data file for broken rows, missing columns and the wrong kind of data."""

from pathlib import Path

from trl_ext.data.files.problems import find_problem
from trl_ext.data.formats import CHOICES
from trl_ext.data.recognise_file import recognise_file
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.settings import Settings
from trl_ext.support.errors import UserError


def check_first_rows(settings: Settings, problems: Problems) -> None:
    """Check a local dataset's first rows against what the method learns from."""
    method, name = settings.method, settings["dataset_name"]
    if not isinstance(name, str) or settings["datasets"]:
        return
    if settings["dataset_format"] not in (None, *CHOICES):  # a problem that is reported elsewhere
        return
    where = settings.where("dataset_name")
    if (problem := find_problem(Path(name))) is not None:
        problems.add_sentences(f"{where} is {name}, which cannot be read: {problem}")
        return
    try:
        match = recognise_file(name, settings["dataset_columns"], settings["dataset_format"] or "auto")
    except UserError as error:
        if method.reads_preferences:  # prompts alone, or completions without a verdict, are enough for other methods
            problems.add_sentences(*error.problems)
        return
    is_loss_known = settings.loss is not None or not method.has_loss
    if match is None or match.paired or not method.is_paired or not is_loss_known:
        return
    what, remedy = (
        ("the loss", "Choose a loss on labelled completions (`--loss kto`), or data")
        if method.has_loss
        else ("a reward model", "Choose data")
    )
    problems.add_sentences(
        f"{where} is {name}, which has single completions with labels, and {what} compares pairs. {remedy} with chosen and "
        "rejected completions."
    )
