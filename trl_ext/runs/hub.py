"""Upload a run to the Hub (`push_to_hub`): the trained model, and later the results of its evaluation and exported files."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from trl_ext.build.refusals import is_of_the_hub
from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe
from trl_ext.runs import finished
from trl_ext.support.errors import UserError
from trl_ext.support.published import MODEL, RESULTS, WEIGHTS

EXPORTED = "gguf"
"""The folder of exported files in the repository."""


@contextlib.contextmanager
def uploading(
    recipe: Recipe, directory: Path, what: str = "it", *, asked: bool = False, by_hand: str | None = None
) -> Iterator[None]:
    """Upload inside. Nothing that fails on the way to the Hub costs the run, whose files are complete.

    Args:
        recipe: Of the run.
        directory: The run's directory.
        what: What is uploaded, for the sentence.
        asked: Whether the upload was asked for by something else than the recipe's `push_to_hub`.
        by_hand: Command that uploads later, if not the run's directory.

    Raises:
        UserError: The Hub cannot be reached or refuses; says how to upload the run later.
    """
    try:
        yield
    except Exception as error:
        if not (asked or recipe.get("push_to_hub")) or not is_of_the_hub(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        by_hand = by_hand or (
            f"hf upload {_name(recipe, directory)} {shlex.quote(str(directory))} --exclude 'checkpoint-*' --exclude 'samples-*'"
        )
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

    Those of a checkpoint go into a folder with its name in the run's repository, where they replace nothing of the finished run.

    Args:
        recipe: Of the run.
        directory: The run's directory, or a checkpoint in it.
        folder: Of the exported files.

    Returns:
        Name of the repository.

    Raises:
        UserError: See `uploading`.
    """
    from huggingface_hub import HfApi

    home = finished.home(directory)
    place = PurePosixPath("" if directory.samefile(home) else directory.resolve().name)
    weights = () if adapter.is_in(directory) else WEIGHTS
    uploads = [(directory, place, [*MODEL, *weights, *RESULTS, finished.RECIPE]), (folder, place / EXPORTED, None)]
    if place.name:
        uploads.insert(1, (home, place, [finished.RECIPE]))
    name, hub = _name(recipe, home), HfApi(token=recipe.get("hub_token"))
    by_hand = " && ".join(_by_hand(name, *upload) for upload in uploads)
    with uploading(recipe, directory, "it", asked=True, by_hand=by_hand):
        made = hub.create_repo(name, private=recipe.get("hub_private_repo"), exist_ok=True)
        for source, path, allowed in uploads:
            hub.upload_folder(
                repo_id=made.repo_id,
                folder_path=source,
                path_in_repo=str(path),
                allow_patterns=allowed,
                commit_message="GGUF" if source is folder else "Adapter, card and recipe",
                revision=recipe.get("hub_revision"),
            )
    return made.repo_id


def _by_hand(name: str, folder: Path, path: PurePosixPath, allowed: list[str] | None) -> str:
    """The command that uploads these files of a folder; all of them for `None`."""
    patterns = [word for pattern in allowed or () for word in ("--include", pattern)]
    return shlex.join(["hf", "upload", name, str(folder), str(path), *patterns])


def _name(recipe: Recipe, directory: Path) -> str:
    """As transformers names the repository: by `hub_model_id`, else by the directory."""
    return recipe.get("hub_model_id") or directory.absolute().name
