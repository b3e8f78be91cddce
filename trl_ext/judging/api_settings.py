"""The settings of a judge behind an OpenAI-compatible API. The key is not one of them: it comes from the environment."""

import os
from dataclasses import dataclass, fields

from trl_ext.checks import judge_api
from trl_ext.checks.judge_api import KEY_VARIABLE
from trl_ext.support.errors import UserError


@dataclass(frozen=True)
class ApiSettings:
    """How to reach the judge, and how it answers."""

    model: str
    """Name of the model, as the API knows it."""
    base_url: str = "https://api.openai.com/v1"
    """Address that `/chat/completions` is appended to; it usually ends in `/v1`."""
    concurrency: int = 8
    """Largest number of requests at a time."""
    timeout: float = 120.0
    """Seconds without an answer after which a request is repeated."""
    retries: int = 5
    """How often a request is repeated after a time-out, a lost connection, a limit of rate (429) or an error of the server
    (500 and above). The pauses grow from 0.5 to 8 seconds; a `Retry-After` of up to two minutes is obeyed."""
    max_tokens: int = 1024
    """Largest number of tokens in a reply, a model's thoughts included."""
    temperature: float | None = 0.0
    """Temperature of the replies; `None` leaves it to the API."""

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise UserError(problems, about="judge")
        object.__setattr__(self, "base_url", self.base_url.strip().rstrip("/"))

    def _problems(self) -> list[str]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return [f"{name} {end}" for name, value in values.items() if (end := judge_api.problem(name, value))]


def api_key() -> str:
    """The key in the environment, or an empty text. It must never be part of a message, a log or a file.

    Raises:
        UserError: It has characters that no HTTP header can have, such as a line break in its middle.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UserError(
            f"{KEY_VARIABLE} holds a space, a line break or a character outside ASCII, which no key has. Set it again."
        )
    return key
