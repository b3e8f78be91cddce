"""Sample answers of a run and of its base to the same prompts, and keep each on disk as soon as it is there.

`samples-<digest>.jsonl` in the run's directory has one line per prompt. The digest is that of the trained weights, the run's
recipe, its chat template and the sampling settings. Every answer depends on its prompt and the seed alone, so a second
evaluation with more prompts samples only those that are new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.judging.judge import Prompt, as_record, key, of_record
from trl_ext.judging.scorers import prompt_ids
from trl_ext.runs import finished
from trl_ext.runs.loaded import Opened
from trl_ext.support.sampling import Completion, sample

BATCH = 64
"""Answers sampled at once; halved, repeatedly if need be, where memory runs out."""

VERSION = 1
"""Part of every digest. Raise it if the same settings give other answers."""

Progress = Callable[[Iterable, int], Iterable]


@dataclass(frozen=True)
class AnswerSampling:
    """How answers are sampled.

    Attributes:
        max_new_tokens: Largest number of tokens of an answer.
        temperature: Of the distribution; 0 for the most probable token at each position.
        seed: Random seed.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    seed: int = 0


class Answer(NamedTuple):
    """What a model answered.

    Attributes:
        text: Without special tokens.
        tokens: Its length, the end token included.
        is_ended: Whether it ended before the limit.
    """

    text: str
    tokens: int
    is_ended: bool


class Answers(NamedTuple):
    """The answers of a run and of its base, a list entry per prompt.

    Attributes:
        sampled: How many prompts were sampled now; the others were kept.
        path: The file of all of them.
    """

    prompts: list[Prompt]
    base: list[Answer]
    tuned: list[Answer]
    sampled: int
    path: Path


def path_of(directory: Path, sampling: AnswerSampling) -> Path:
    """The file of the answers of a run or checkpoint with these settings."""
    return directory / f"samples-{_digest(directory, sampling)}.jsonl"


def kept(path: Path) -> dict[str, tuple[Answer, Answer]]:
    """The answers of base and run in a file, by prompt (`key`). Lines that are torn are skipped."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    return dict(entry for line in lines if (entry := _entry(line)) is not None)


def answer(
    directory: Path,
    prompts: Sequence[Prompt],
    sampling: AnswerSampling,
    opened: Callable[[], Opened],
    progress: Progress,
    base: Mapping[str, Answer] | None = None,
) -> Answers:
    """The answers of a run and of its base to each prompt; those that are kept are not sampled again.

    Args:
        directory: Of the run or checkpoint. The answers are kept in it.
        prompts: Distinct ones.
        sampling: How answers are sampled.
        opened: Loads the run with its reference; called only if an answer is missing.
        progress: Wraps the iteration over the prompts that are sampled.
        base: Answers of the base that are known already, by prompt (`key`), such as those that another run was compared with.
    """
    path = path_of(directory, sampling)
    known = kept(path)
    missing = [prompt for prompt in prompts if key(prompt) not in known]
    if missing:
        for prompt, both in progress(_sample(path, missing, sampling, opened(), base or {}), len(missing)):
            known[key(prompt)] = both
    found = [known[key(prompt)] for prompt in prompts]
    return Answers(list(prompts), [one for one, _ in found], [other for _, other in found], len(missing), path)


def _sample(
    path: Path, prompts: list[Prompt], sampling: AnswerSampling, opened: Opened, of_base: Mapping[str, Answer]
) -> Iterator[tuple[Prompt, tuple[Answer, Answer]]]:
    """Both answers to each prompt, those of a batch as soon as they are on disk."""
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        tuned = _complete(opened.model, opened.tokenizer, batch, sampling)
        new = [prompt for prompt in batch if key(prompt) not in of_base]
        with opened.reference() as model:
            sampled = dict(zip(map(key, new), _complete(model, opened.tokenizer, new, sampling), strict=True))
        pairs = [((of_base.get(key(each)) or sampled[key(each)]), one) for each, one in zip(batch, tuned, strict=True)]
        _append(path, zip(batch, pairs, strict=True))
        yield from zip(batch, pairs, strict=True)


def _complete(model: Any, tokenizer: Any, prompts: list[Prompt], sampling: AnswerSampling) -> list[Answer]:
    rows = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    if not rows:
        return []
    return [_answer(each) for each in sample(model, tokenizer, rows, batch_size=BATCH, **asdict(sampling))]


def _answer(completion: Completion) -> Answer:
    return Answer(completion.text, len(completion.ids), completion.is_ended)


def _append(path: Path, entries: Iterable[tuple[Prompt, tuple[Answer, Answer]]]) -> None:
    """Write whole lines at once and sync them, so that a process that is killed loses one batch at most."""
    lines = [
        json.dumps(
            {
                **as_record(prompt),
                "base": base.text,
                "tuned": tuned.text,
                "tokens": [base.tokens, tuned.tokens],
                "ended": [base.is_ended, tuned.is_ended],
            },
            ensure_ascii=False,
        )
        for prompt, (base, tuned) in entries
    ]
    with path.open("ab") as file:
        file.write("".join(f"\n{line}\n" for line in lines).encode("utf-8", errors="surrogatepass"))
        file.flush()
        os.fsync(file.fileno())


def _entry(line: bytes) -> tuple[str, tuple[Answer, Answer]] | None:
    try:
        record = json.loads(line)
        both = zip((record["base"], record["tuned"]), record["tokens"], record["ended"], strict=True)
        base, tuned = (Answer(*each) for each in both)
        return key(of_record(record)), (base, tuned)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(directory: Path, sampling: AnswerSampling) -> str:
    """A digest of everything that an answer depends on besides its prompt."""
    found = blake2b(json.dumps({"version": VERSION, **asdict(sampling)}, sort_keys=True).encode(), digest_size=8)
    trained = {key: value for key, value in finished.written(directory).items() if key != "evaluation"}
    found.update(json.dumps(trained, sort_keys=True, default=str).encode())
    for path in (directory / name for name in ("chat_template.jinja", "tokenizer_config.json")):
        found.update(path.read_bytes() if path.exists() else b"")
    for path in sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")]):
        found.update(path.name.encode())
        found.update(_content(path))
    return found.hexdigest()


def _content(path: Path) -> bytes:
    """An adapter's bytes; of larger files, which take long to read, the size and the time of the last change."""
    facts = path.stat()
    if facts.st_size > 2**30:
        return f"{facts.st_size} {facts.st_mtime_ns}".encode()
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.digest()
