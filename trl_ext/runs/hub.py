"""Upload a run to the Hub (`push_to_hub`): the trained model, and later the results of its evaluation and exported files."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from trl_ext.build.refusals import is_of_the_hub
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError

RESULTS = ("README.md", "report.html", "eval-*.json", "judged-*.json", "tasks.json")
"""What an evaluation writes: card, page and records. The file of all answers stays here."""


NOT_UPLOADED = ["checkpoint-*", "_*", ".*", "*.gguf"]
"""Files of a run's directory that are not uploaded with it. Exported files have a folder of their own."""

EXPORTED = "gguf"
"""The folder of exported files in the repository."""


@contextlib.contextmanager
def uploading(recipe: Recipe, directory: Path, what: str = "it", *, asked: bool = False) -> Iterator[None]:
    """Upload inside. Nothing that fails on the way to the Hub costs the run, whose files are complete.

    Args:
        recipe: Of the run.
        directory: The run's directory.
        what: What is uploaded, for the sentence.
        asked: Whether the upload was asked for by something else than the recipe's `push_to_hub`.

    Raises:
        UserError: The Hub cannot be reached or refuses; says how to upload the run later.
    """
    try:
        yield
    except Exception as error:
        if not (asked or recipe.get("push_to_hub")) or not is_of_the_hub(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        by_hand = f"hf upload {_name(recipe, directory)} {shlex.quote(str(directory))} --exclude 'checkpoint-*'"
        raise UserError(
            f"The run in {directory} is complete, but {what} could not be uploaded to the Hub: {reason}. Upload it with: {by_hand}"
        ) from error


def upload_results(recipe: Recipe, directory: Path) -> None:
    """Upload what an evaluation wrote, into the repository that the trainer made.

    Raises:
        UserError: See `uploading`.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=recipe.get("hub_token"))
    with uploading(recipe, directory, "the results of its evaluation"):
        made = hub.create_repo(_name(recipe, directory), private=recipe.get("hub_private_repo"), exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id,
            folder_path=directory,
            allow_patterns=list(RESULTS),
            ignore_patterns=["checkpoint-*"],
            commit_message="Results of the evaluation",
            revision=recipe.get("hub_revision"),
        )


def upload_export(recipe: Recipe, directory: Path, folder: Path) -> str:
    """Upload a run and its exported files: adapter, card, recipe, tokenizer and results, then the files of the export.

    Args:
        recipe: Of the run.
        directory: The run's directory.
        folder: Of the exported files.

    Returns:
        Name of the repository.

    Raises:
        UserError: See `uploading`.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=recipe.get("hub_token"))
    with uploading(recipe, directory, "it", asked=True):
        made = hub.create_repo(_name(recipe, directory), private=recipe.get("hub_private_repo"), exist_ok=True)
        where = {"repo_id": made.repo_id, "revision": recipe.get("hub_revision")}
        within = [f"{folder.name}/*"] if folder.resolve().parent == directory.resolve() else []
        hub.upload_folder(
            folder_path=directory,
            ignore_patterns=NOT_UPLOADED + within,
            commit_message="Adapter, card and recipe",
            **where,
        )
        hub.upload_folder(folder_path=folder, path_in_repo=EXPORTED, commit_message="GGUF", **where)
    return made.repo_id


def _name(recipe: Recipe, directory: Path) -> str:
    """As transformers names the repository: by `hub_model_id`, else by the directory."""
    return recipe.get("hub_model_id") or directory.absolute().name
