"""The settings of one set of pairs, and the digests that say which completions and scores they may reuse."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from trl_ext.data.formats.pairing import BEST_WORST

VERSION = 1
"""Part of every digest. Raise it if the same settings give other completions or scores."""


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled, from the full distribution.

    Attributes:
        num_generations: Completions per prompt.
        max_new_tokens: Largest number of tokens of a completion.
        temperature: Of the distribution.
        seed: Random seed. A completion depends on it, on its prompt and on its number among those of the prompt.
    """

    num_generations: int = 8
    max_new_tokens: int = 512
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Selection:
    """Which completions become rows of the data.

    Attributes:
        labelled: Completions with labels instead of pairs.
        select: `best_worst` or `all` pairs of a prompt.
        margin: The scores of a pair differ by more than this; a labelled score differs from the prompt's mean by more than this.
        threshold: Labelled completions with at least this score are desirable; `None` compares with the prompt's mean.
        keep_truncated: Use completions that reached the limit of tokens without an end, too.
        write_margin: Add the difference of the scores of a pair to its row, as `margin`.
    """

    labelled: bool = False
    select: str = BEST_WORST
    margin: float = 0.0
    threshold: float | None = None
    keep_truncated: bool = False
    write_margin: bool = False


@dataclass(frozen=True)
class Asked:
    """Everything the rows depend on, as plain values for JSON.

    Attributes:
        policy: The model that is sampled from: names, files and how it is loaded.
        prompts: Name and digest of the prompts, and their number.
        sampling: See `Sampling`.
        scoring: Sources, weights and further settings of the scores.
        selection: See `Selection`.
    """

    policy: dict[str, Any]
    prompts: dict[str, Any]
    sampling: Sampling
    scoring: dict[str, Any]
    selection: Selection = field(default_factory=Selection)

    @property
    def of_completions(self) -> str:
        """Digest of what completions depend on besides their prompt."""
        return digest(VERSION, self.policy, asdict(self.sampling))

    @property
    def of_scores(self) -> str:
        """Digest of what scores depend on besides the completions."""
        compares = "comparisons" in self.scoring  # truncated completions are compared only if they are used
        return digest(self.of_completions, self.scoring, self.selection.keep_truncated if compares else None)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return json.loads(json.dumps(asdict(self), default=str))


IN_WORDS = {
    "n": "there are other prompts",
    "digest": "there are other prompts",
    "files": "the files of the model have changed",
    "content": "the code or the files that scores come from have changed",
}
"""What is said about a difference in values that mean nothing to a reader."""


def changes(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two settings, in words: `num_generations` was 4 and is 8."""
    found = _different("", was, now)
    return list(dict.fromkeys(IN_WORDS.get(name) or f"`{name}` {_change(old, new)}" for name, old, new in found))


def digest(*parts: Any) -> str:
    """16 characters that stand for some plain values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).hexdigest()


def _different(name: str, was: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Name and both values of everything that differs between two nested mappings."""
    if isinstance(was, dict) and isinstance(now, dict) and name not in IN_WORDS:
        keys = [*now, *(key for key in was if key not in now)]
        return [each for key in keys for each in _different(key, was.get(key), now.get(key))]
    return [] if was == now else [(name, was, now)]


def _change(was: Any, now: Any) -> str:
    return f"was {_shown(was)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "set"
    text = "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
