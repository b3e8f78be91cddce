"""What is allowed for the settings of a judge behind an API, and where its key comes from.

Each function returns the end of a sentence that begins with the name of the setting, or "" if there is nothing wrong.
"""

import math
from urllib.parse import urlsplit

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key. Servers on one's own machine usually need none."""

LEAST = {"concurrency": 1, "retries": 0, "max_tokens": 1}
"""The smallest value of each setting that is a whole number."""


def problem(name: str, value: object) -> str:
    """About one setting, by its name in `trl_ext.judging.api_settings.ApiSettings`."""
    if name == "model":
        is_name = isinstance(value, str) and value.strip()
        return "" if is_name else "is empty. Set it to the name of a model that the API serves."
    if name == "base_url":
        return url_problem(value)
    if name in LEAST and (type(value) is not int or value < LEAST[name]):
        return f"is {value!r}. It has to be a whole number of at least {LEAST[name]}."
    if name == "timeout" and (not _is_number(value) or value <= 0):
        return f"is {value!r}. It has to be a number of seconds above 0."
    if name == "temperature" and value is not None and (not _is_number(value) or value < 0):
        return f"is {value!r}. It has to be a number of at least 0, or null to leave it out."
    return ""


def url_problem(url: object) -> str:
    """About an address."""
    example = "Write it as http://localhost:11434/v1 or https://api.openai.com/v1."
    if not isinstance(url, str):
        return f"is {url!r}. {example}"
    try:
        parts = urlsplit(url.strip())
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return f"is no valid address. {example}"  # it is not quoted: it may hold a password
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return (
            "holds a user name, a password, or a part after ? or #. It is kept in files and messages, so it must not hold "
            f"a key. Remove that part, and set the environment variable {KEY_VARIABLE} to the key."
        )
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_valid
        or any(map(str.isspace, url.strip()))
    ):
        return f"is {url!r}. {example}"
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return f"is {url!r}. Leave out /chat/completions, which is appended to it."
    return ""


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
