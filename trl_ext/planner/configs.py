"""Find a model's config.json: in a folder, among the known models, or on the Hub. Weights are never read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.model_files.adapter import CONFIG
from trl_ext.planner.models import MODELS
from trl_ext.support.errors import UserError

SECONDS = 10
"""Timeout for a request to the Hub, in seconds."""


def find(name: str, revision: str | None = None) -> dict[str, Any]:
    """The content of a model's config.json.

    Args:
        name: A folder, `embedded`, or a name on the Hub.
        revision: Commit, branch or tag on the Hub.

    Raises:
        UserError: The config.json does not exist or cannot be read.
    """
    if name == demo.EMBEDDED:
        name = str(demo.MODEL)
    if Path(name).is_dir():
        return _read(Path(name, "config.json"), name)
    if name in MODELS and revision in (None, "main"):
        return MODELS[name]
    return _from_hub(name, revision)


def adapter(name: str) -> dict[str, Any] | None:
    """The content of the adapter_config.json in a folder; `None` if there is none."""
    path = Path(name).expanduser() / CONFIG
    return _read(path, name) if path.is_file() else None


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"`model_name_or_path` is the folder {name}, which holds no {path.name}, so it is not a transformers model."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    return _checked(content, str(path))


def _checked(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{where} is not a JSON object, so it does not describe a model.")
    return content


def _from_hub(name: str, revision: str | None) -> dict[str, Any]:
    """One request, without the retries that loading weights makes."""
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import build_hf_headers, get_session

    known = f"Offline, these can be planned: {', '.join(MODELS)}. A folder with a config.json can be planned, too."
    try:
        cached = hf_hub_download(name, "config.json", revision=revision, local_files_only=True)
        return _read(Path(cached), name)
    except HFValidationError as error:
        raise UserError(
            f"`model_name_or_path` is {name!r}. There is no folder with this name, and it is not a valid name on the Hub."
        ) from error
    except LocalEntryNotFoundError:
        pass
    url = hf_hub_url(name, "config.json", revision=revision)
    try:
        response = get_session().get(url, headers=build_hf_headers(), timeout=SECONDS, follow_redirects=True)
        response.raise_for_status()
        return _checked(response.json(), url)
    except UserError:
        raise
    except Exception as error:  # the errors depend on the session's backend; all mean that there is no config.json
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(
                f"{name} needs a login. Run `hf auth login`, and accept the licence on the model's page."
            ) from error
        if status == 404:
            raise UserError(f"The Hub has no model {name} with a config.json. Check the name.") from error
        raise UserError(
            f"The config.json of {name} could not be read from the Hub ({type(error).__name__}). {known}"
        ) from error
