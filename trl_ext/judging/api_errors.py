"""Say what is wrong with an API, in sentences that never hold the key."""

from typing import Any

from trl_ext.judging.api_settings import KEY_VARIABLE, ApiSettings
from trl_ext.support import messages
from trl_ext.support.counts import count

HIDDEN = "[key]"


def without_key(text: str, key: str) -> str:
    """A text of the server with the key hidden. Servers may quote it."""
    return text.replace(key, HIDDEN) if key else text


def explain(error: Exception, settings: ApiSettings, key: str, retries: int) -> str:
    """What happened, why, and what to do about an error of the `openai` client that its retries did not repair."""
    import openai

    api = f"The judge's API at {settings.base_url}"
    status = getattr(error, "status_code", None)
    says = quoted(error, key)
    retried = _retried(retries)
    if isinstance(error, openai.APITimeoutError):
        return (
            f"{api} did not answer within {settings.timeout:g} seconds.{retried} Check that the server is up, lower `judge_concurrency`, "
            "or raise timeout."
        )
    if isinstance(error, openai.APIConnectionError):
        reason = messages.shown_text(without_key(str(error.__cause__ or error), key))
        return f"{api} cannot be reached ({reason}). Check `judge_base_url`, and that the server is running."
    if status in (401, 403):
        given = f"Check the key in {KEY_VARIABLE} and what it may do." if key else f"Set {KEY_VARIABLE} to a key."
        refused = "refuses the key" if key else "asks for a key"
        return f"{api} {refused} ({status}). {given}"  # what it says is not quoted: it may hold a part of the key
    if status == 429:
        return f"{api} refuses further requests (429).{says} Wait, lower `judge_concurrency`, or add credit, then run the same command again."
    if status is not None and status >= 500:
        return f"{api} fails with status {status}.{retried}{says} Run the same command again when the server works."
    if status is not None:
        return f"{api} refuses the request ({status}).{says} Check `judge_base_url`, `judge_model`, `judge_max_tokens` and `judge_temperature`."
    return f"{api} cannot be used ({messages.shown_text(without_key(str(error), key))}). Check `judge_base_url`."


def explain_not_found(settings: ApiSettings, served: list[str] | None, said: str) -> str:
    """What to do about a 404: the model is unknown if the API can list its models, otherwise the address is wrong.

    Args:
        served: Names of the models that the API lists; `None` if it lists none.
        said: The server's own sentence, as `quoted` gives it.
    """
    if served is None:
        ending = "" if settings.base_url.endswith("/v1") else " The address of such an API usually ends in /v1."
        return (
            f"There is no OpenAI-compatible API at {settings.base_url}, or it has no model {settings.model!r} (404).{ending} Check "
            "`judge_base_url` and `judge_model`."
        )
    if settings.model in served:
        return (
            f"The judge's API at {settings.base_url} has no chat completions of the model {settings.model!r} (404).{said} Choose a "
            "chat model."
        )
    near = messages.nearest(settings.model, served)
    meant = (
        f" Did you mean {messages.joined(near, 'or')}?"
        if near
        else f" It has {messages.shown_text(', '.join(sorted(served)))}."
    )
    return f"The judge's API at {settings.base_url} has no model {settings.model!r}.{meant if served else ''} Check `judge_model`."


def explain_malformed(what: str, settings: ApiSettings, key: str, retries: int) -> str:
    """What to do about a reply that is no chat completion. `what` is the rest of a sentence about it."""
    said = messages.shown_text(without_key(what, key))
    retried = _retried(retries)
    return f"A reply of the judge's API at {settings.base_url} {said}.{retried} Check `judge_base_url`, and run the same command again."


def quoted(error: Exception, key: str) -> str:
    """The server's own message as a sentence with a space before it, or an empty text."""
    said = messages.shown_text(without_key(server_message(error), key))
    return f' It says: "{said}"' + "." * (said[-1:] not in (".", "…", "!", "?")) if said else ""


def server_message(error: Exception) -> str:
    """The server's own message in an error, or an empty text."""
    body: Any = getattr(error, "body", None)
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error")
    return body.strip() if isinstance(body, str) and "<html" not in body.lower() else ""


def _retried(retries: int) -> str:
    return f" {count(retries, 'retries')} did not help." if retries else ""
