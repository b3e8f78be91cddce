"""Make preference data from a model's own completions: sample, score, choose, write. What is done is kept at every batch.

`make_pairs` is the whole of `trl-ext pairs` without rounds, and one part of a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import trl_ext
from trl_ext.evaluation.prompts import Prompts
from trl_ext.judging.judge import Prompt, variables_of
from trl_ext.judging.open_judge import Beside
from trl_ext.pairing.facts import measure
from trl_ext.pairing.kept import Kept
from trl_ext.pairing.output import Output
from trl_ext.pairing.policy import Policy
from trl_ext.pairing.rows import choose, rows
from trl_ext.pairing.sample import BATCH, Watched, group_of, sample_groups
from trl_ext.pairing.scoring import Scoring, chunk
from trl_ext.pairing.settings import Asked, Sampling, Selection, digest
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

TRIED = 4
"""Prompts that reward functions score before all others are sampled, so that an error in one shows early."""

Log = Callable[[str], None]


def make_pairs(
    policy: Policy,
    prompts: Prompts,
    sampling: Sampling,
    scoring: Scoring,
    selection: Selection,
    output: Output,
    log: Log,
    watched: Watched,
    *,
    batch_size: int = BATCH,
    overwrite: bool = False,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Sample, score and choose, and write the data with its provenance. The same call continues what was interrupted.

    Args:
        policy: What is sampled from; loaded only if a completion is missing.
        prompts: Distinct ones.
        sampling: How many completions, and how.
        scoring: What scores them.
        selection: Which of them become rows.
        output: Where the data is written.
        log: Called with each message for the user.
        watched: Shows the progress.
        batch_size: Completions sampled together.
        overwrite: Replace data that was made with other settings. Completions and scores that are still right are used again.
        more: Further facts for the provenance, such as the recipe.

    Returns:
        The provenance, as it is written: `model` and `adapter`, `prompts`, `sampling`, `scoring`, `selection`, and `found`, see
        `facts.measure`.

    Raises:
        UserError: Other settings in the same place, no row, or a source that cannot score.
    """
    asked = _asked(policy, prompts, sampling, scoring, selection)
    output.begin(asked, overwrite=overwrite)
    completions, scores = Kept(output.completions(asked)), Kept(output.scores(asked))
    log(_what_is_left(prompts.prompts, completions, scores, sampling.num_generations))
    log(scoring.in_words(len(prompts.prompts), sampling.num_generations))
    beside = Beside(policy.tokenizer, policy.load, policy.release, prompts.prompts, prompts.columns)

    def sample_and_score(some: Sequence[Prompt]) -> None:
        sample_groups(policy, some, sampling, completions, watched, batch_size)
        _score(some, scoring, beside, selection, completions, scores, sampling.num_generations, watched)

    if scoring.is_cheap:
        size = max(1, batch_size // sampling.num_generations)
        sample_and_score(prompts.prompts[: -(-TRIED // size) * size])  # whole batches, as they are cut later
    sample_and_score(prompts.prompts)
    policy.release()
    scored = [choose(group_of(prompt, completions), scores[prompt], selection) for prompt in prompts.prompts]
    found, made = measure(scored), rows(scored, write_margin=selection.write_margin)
    if scoring.compares:
        found["score"] = None  # strengths have mean 0 within a prompt
    if not made:
        raise UserError(_nothing(found, selection))
    provenance = _provenance(asked, prompts, found, more or {})
    output.write(made, provenance)
    return provenance


def _asked(policy: Policy, prompts: Prompts, sampling: Sampling, scoring: Scoring, selection: Selection) -> Asked:
    about = {
        "source": prompts.name,
        "n": len(prompts.prompts),
        "digest": digest(prompts.prompts, *filter(None, map(variables_of, prompts.prompts))),
    }
    return Asked(policy.facts(), about, sampling, scoring.facts(sampling.num_generations), selection)


def _score(
    prompts: Sequence[Prompt],
    scoring: Scoring,
    beside: Beside,
    selection: Selection,
    completions: Kept,
    scores: Kept,
    n: int,
    watched: Watched,
) -> None:
    """Score the completions of the prompts that have no scores yet, and keep those of a chunk at once."""
    size = chunk(scoring, n)
    chunks = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    missing = [some for some in chunks if any(prompt not in scores for prompt in some)]
    if not missing:
        return
    score = scoring.open(beside, keep_truncated=selection.keep_truncated)

    def scored() -> Iterator[Prompt]:
        for some in missing:
            scores.add(zip(some, score([group_of(prompt, completions) for prompt in some]), strict=True))
            yield from some

    for _ in watched(scored(), sum(map(len, missing)), "prompts scored"):
        pass


def _what_is_left(prompts: Sequence[Prompt], completions: Kept, scores: Kept, n: int) -> str:
    sampled, scored = (sum(prompt in kept for prompt in prompts) for kept in (completions, scores))
    asked = f"{count(len(prompts), 'prompts')}, {count(n, 'completions')} each"
    if not sampled:
        return f"{asked}."
    return f"{asked}. Kept from an earlier command: completions of {sampled:,} and scores of {scored:,} prompts."


def _nothing(found: dict[str, Any], selection: Selection) -> str:
    """Why no prompt gives a row, and what to do."""
    what = "labelled completion" if selection.labelled else "pair"
    why = "; ".join(f"{reason} ({n:,})" for reason, n in found["without"].items())
    if found["truncated"] == found["completions"] and not selection.keep_truncated:
        hint = "Every completion reached `--max_new_tokens` without an end. Give a larger number, or add `--keep_truncated`."
    elif selection.margin:
        hint = "Give a smaller `--margin`."
    else:
        hint = "Give more completions (`--num_generations`), a higher `--temperature`, or a reward that distinguishes them."
    prompts = count(found["prompts"], "prompts")
    return f"None of {prompts} gives a {what}: {why}. {hint} Completions and scores are kept."


def _provenance(asked: Asked, prompts: Prompts, found: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    from trl_ext.runs import environment

    return {
        "made_by": f"trl-ext {trl_ext.__version__}",
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}",
        **more,
        "model": asked.policy["model"],
        "adapter": asked.policy["adapter"],
        "prompts": {"source": prompts.name, "n": len(prompts.prompts)},
        "sampling": asdict(asked.sampling),
        "scoring": {key: value for key, value in asked.to_dict()["scoring"].items()},
        "selection": asdict(asked.selection),
        "found": found,
        "packages": environment.describe()["packages"],
    }
