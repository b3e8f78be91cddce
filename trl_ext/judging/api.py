"""A judge behind an OpenAI-compatible API: Ollama, vLLM, llama.cpp's server, or a cloud.

The `openai` client repeats failed requests, with growing pauses and as `Retry-After` says. It does not read replies here:
a server may send anything with status 200, and `api_reply` says what of it is a verdict.

Which errors end an evaluation: those that the next question would meet too (the server is gone, the key is refused). A
question that the API refuses for itself, say because it is longer than the judge's context, has no verdict, and the
evaluation continues.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from trl_ext.judging import api_errors
from trl_ext.judging.api_reply import MalformedReplyError, read_reply
from trl_ext.judging.api_settings import ApiSettings, api_key
from trl_ext.judging.concurrently import concurrently
from trl_ext.judging.judge import Question, Verdict
from trl_ext.judging.template import Template
from trl_ext.judging.usage import Usage
from trl_ext.judging.verdict_cache import Reply, VerdictCache
from trl_ext.support import messages
from trl_ext.support.errors import UserError

CONNECT_SECONDS = 10.0
"""Longest wait for a connection. Loading a model may take minutes; accepting a connection does not."""
CHECK_RETRIES = 2
"""How often the request of `check` is repeated, at most: somebody waits for it."""
MALFORMED_PAUSE = 0.5
"""Seconds before a request whose reply was malformed is repeated for the first time; doubled each time."""
PROBE = "Reply with the word yes."
REFUSES_QUESTION = frozenset({400, 413, 422})
"""Status codes by which an API refuses one request for what it holds."""

log = logging.getLogger(__name__)


class ApiJudge:
    """Asks a model behind an API. The order of the answers may change its verdict.

    Every reply is in the cache before its verdict is given. Braces, marks and instructions in the answers are text to the
    template, but a model may still obey them.

    Attributes:
        usage: Tokens and unclear verdicts since the judge was made.
    """

    has_position = True

    def __init__(
        self, settings: ApiSettings, template: Template | None = None, cache_directory: Path | str | None = None
    ) -> None:
        """
        Args:
            settings: Where the judge is, and how it answers.
            template: What it reads (default: the template that comes with trl-ext).
            cache_directory: Folder of the verdicts (default: that of trl-ext's cache).

        Raises:
            UserError: The package `openai` is not installed, or the key in the environment cannot be one.
        """
        self.name, self.settings = settings.model, settings
        self.usage, self._counting = Usage(), threading.Lock()
        self._template = template or Template.load()
        self._key = api_key()
        self._client = _client(settings, self._key)
        self._options: dict[str, Any] = {"max_tokens": settings.max_tokens}
        if settings.temperature is not None:
            self._options["temperature"] = settings.temperature
        self._is_checked = False
        self._cache = VerdictCache(
            settings.model,
            {
                "kind": "api",
                "model": settings.model,
                "base_url": settings.base_url,
                "temperature": settings.temperature,
                "max_tokens": settings.max_tokens,
            },
            cache_directory,
        )

    def check(self) -> None:
        """Send one short request, and adapt the parameters to what the model allows.

        Raises:
            UserError: The API cannot be reached, refuses the key, or does not have the model; or verdicts cannot be kept.
        """
        if self._is_checked:
            return
        self._cache.prepare()
        retries = min(CHECK_RETRIES, self.settings.retries)
        while not self._is_checked:
            try:
                self.usage.new.add(self._asked(PROBE, retries))
                self._is_checked = True
            except _RefusedError as refused:
                if not self._adapt(refused):
                    raise UserError(refused.explanation) from None

    def verdicts(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """A verdict for each question, in their order, each as soon as it and those before it are known.

        Equal questions are asked once. The first question that is not in the cache is preceded by `check`.

        Raises:
            UserError: The API fails for good. The verdicts so far have been given, and are kept.
        """
        texts = [self._template.render(question) for question in questions]
        known: dict[str, Reply | None] = {}
        for text in texts:
            if text not in known and (reply := self._cache.get(text)):
                self.usage.add(reply, self.usage.cached)
                known[text] = reply
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        asked = concurrently(self._reply, missing, self.settings.concurrency)
        arriving = zip(missing, asked, strict=False)
        with closing(asked):
            for text in texts:
                while text not in known:
                    self.check()
                    asked_text, reply = next(arriving)
                    known[asked_text] = reply
                reply = known[text]
                yield Verdict.UNCLEAR if reply is None else reply.verdict

    def _reply(self, text: str) -> Reply | None:
        """The reply to a text, counted and kept; `None` if the API refuses the text."""
        if reply := self._cache.get(text):  # another process was faster
            with self._counting:
                self.usage.add(reply, self.usage.cached)
            return reply
        try:
            reply = self._asked(text, self.settings.retries)
        except _RefusedError as refused:
            log.warning("A question has no verdict. %s", refused.explanation)
            with self._counting:
                self.usage.refuse()
            return None
        self._cache.put(text, reply)
        with self._counting:  # here, so that a reply is counted even if the caller has left
            self.usage.add(reply, self.usage.new)
        return reply

    def _asked(self, text: str, retries: int) -> Reply:
        """The reply to one request and its repetitions.

        Raises:
            UserError: An error that the next request would meet too.
            _RefusedError: The API refuses this request.
        """
        import openai

        complete = self._client.with_options(max_retries=retries).chat.completions.with_raw_response.create
        question = [{"role": "user", "content": text}]
        for repeated in range(retries + 1):
            try:
                response = complete(model=self.settings.model, messages=question, **self._options)
                reply = read_reply(response.http_response.content)
                return reply._replace(words=api_errors.without_key(reply.words, self._key))
            except MalformedReplyError as error:
                problem = api_errors.explain_malformed(str(error), self.settings, self._key, retries)
                if repeated < retries:
                    time.sleep(MALFORMED_PAUSE * 2**repeated)
                    continue
            except openai.NotFoundError as error:
                said = api_errors.quoted(error, self._key)
                problem = api_errors.explain_not_found(self.settings, self._served(), said)
            except openai.OpenAIError as error:
                problem = api_errors.explain(error, self.settings, self._key, retries)
                if getattr(error, "status_code", None) in REFUSES_QUESTION:
                    raise _RefusedError(problem, api_errors.server_message(error)) from None
            break
        raise UserError(problem)

    def _adapt(self, refused: "_RefusedError") -> bool:
        """Change a parameter that the model does not take. Returns whether one was changed.

        OpenAI's reasoning models take `max_completion_tokens` instead of `max_tokens`, and no temperature but their own.
        """
        if "max_tokens" in self._options and "max_completion_tokens" in refused.said:
            self._options["max_completion_tokens"] = self._options.pop("max_tokens")
            return True
        if "temperature" in self._options and "temperature" in refused.said:
            del self._options["temperature"]
            log.warning(
                "The judge %s does not take a temperature. It answers with its own, so a verdict may differ from one request to the "
                "next.",
                messages.shown_text(self.name),
            )
            return True
        return False

    def _served(self) -> list[str] | None:
        """Names of the models that the API lists; `None` if it does not list them."""
        import openai

        try:
            return [str(model.id) for model in self._client.with_options(max_retries=0).models.list().data]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return None


class _RefusedError(Exception):
    """The API refuses one request for what it holds."""

    def __init__(self, explanation: str, said: str) -> None:
        super().__init__(explanation)
        self.explanation, self.said = explanation, said


def _client(settings: ApiSettings, key: str) -> Any:
    try:
        import openai
    except ImportError:
        raise UserError(
            f"The judge {settings.model!r} at {settings.base_url} needs a package that is not installed. Run `pip install openai`."
        ) from None
    return openai.OpenAI(
        api_key=key or "none",  # the client demands one; a server without keys ignores it
        base_url=settings.base_url,
        timeout=openai.Timeout(settings.timeout, connect=min(CONNECT_SECONDS, settings.timeout)),
    )
