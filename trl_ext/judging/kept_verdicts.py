"""Keep the verdicts of a model that judges on this computer, so that an interrupted evaluation continues where it was."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trl_ext.judging.judge import Judge, Question, Verdict, variables_of
from trl_ext.judging.verdict_cache import Reply, VerdictCache
from trl_ext.model_files import adapter, local

FILES = ("*.safetensors", "*.bin", "config.json", "adapter_config.json", "tokenizer*.json", "chat_template.jinja")
"""Files of a model that its verdicts depend on."""


class KeptJudge:
    """A judge whose verdicts are written to the cache as they come. It is made when the first verdict is missing.

    Args:
        name: Of the judge.
        has_position: Of the judge.
        identity: Everything that a verdict depends on besides the question, as JSON has it.
        make: Loads the judge.
    """

    def __init__(self, name: str, has_position: bool, identity: dict[str, Any], make: Callable[[], Judge]) -> None:
        self.name, self.has_position = name, has_position
        self._cache, self._make = VerdictCache(name, identity), make

    def verdicts(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """A verdict for each question, in their order, each as soon as it is known and kept."""
        texts = [_text(question) for question in questions]
        missing = {
            text: question for text, question in zip(texts, questions, strict=True) if not self._cache.get(text)
        }
        if missing:
            self._cache.prepare()
        asked = iter(self._make().verdicts([*missing.values()]) if missing else ())
        for text in texts:
            if (reply := self._cache.get(text)) is None:
                reply = Reply(next(asked))
                self._cache.put(text, reply)
            yield reply.verdict


def _text(question: Question) -> str:
    variables = variables_of(question.prompt)
    return json.dumps([*question, variables] if variables else question, ensure_ascii=False)


def identity(place: str, revision: str | None = None) -> dict[str, Any]:
    """What identifies a model: its name, and size and time of the last change of its files, and of those of its base.

    Args:
        place: A folder, or a name on the Hub.
        revision: Commit, branch or tag on the Hub.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        cached = local.folder(place, revision, ("config.json",))
        return {"name": place, "revision": revision, "commit": cached and cached.name}
    paths = sorted(path for pattern in FILES for path in folder.glob(pattern))
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    base = adapter.base_of(folder) if adapter.is_in(folder) else None
    return {"folder": str(folder.resolve()), "files": files, "base": base and identity(base)}
