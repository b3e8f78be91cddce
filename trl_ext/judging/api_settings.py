"""The settings of a judge behind an OpenAI-compatible API. The key is not one of them: it comes from the environment."""

import math
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from trl_ext.support.errors import UserError

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key. Servers on one's own machine usually need none."""


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
        found = []
        if not isinstance(self.model, str) or not self.model.strip():
            found.append("model is empty. Set it to the name of a model that the API serves.")
        if problem := _url_problem(self.base_url):
            found.append(problem)
        for name, least in (("concurrency", 1), ("retries", 0), ("max_tokens", 1)):
            if type(given := getattr(self, name)) is not int or given < least:
                found.append(f"{name} is {given!r}. It has to be a whole number of at least {least}.")
        if not _is_number(self.timeout) or self.timeout <= 0:
            found.append(f"timeout is {self.timeout!r}. It has to be a number of seconds above 0.")
        if self.temperature is not None and (not _is_number(self.temperature) or self.temperature < 0):
            found.append(
                f"temperature is {self.temperature!r}. It has to be a number of at least 0, or null to leave it out."
            )
        return found


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


def _url_problem(url: object) -> str:
    """A sentence about an address that cannot be one of an API; empty if there is nothing wrong with it."""
    example = "Write it as http://localhost:11434/v1 or https://api.openai.com/v1."
    if not isinstance(url, str):
        return f"base_url is {url!r}. {example}"
    try:
        parts = urlsplit(url.strip())
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return f"base_url is no valid address. {example}"  # it is not quoted: it may hold a password
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return (
            "base_url holds a user name, a password, or a part after ? or #. It is kept in files and messages, so it must not hold "
            f"a key. Remove that part, and set the environment variable {KEY_VARIABLE} to the key."
        )
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_valid
        or any(map(str.isspace, url.strip()))
    ):
        return f"base_url is {url!r}. {example}"
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return f"base_url is {url!r}. Leave out /chat/completions, which is appended to it."
    return ""


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
