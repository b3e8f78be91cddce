"""The README's table of speed: a step of preference training, the update of a rollout, and sampling, against TRL."""

import json
from typing import Any

from benchmarks.rl import sampling
from benchmarks.rl import table as updates
from docs import step_tables

PROMPTS = sampling.NUMBERS["prompts"][0]
HEAD = ["| | TRL | trl-ext | |", "|---|---|---|---|"]


def table() -> str:
    """Medians of TRL and ours, and their ratio with its range; what they were measured on."""
    step = step_tables.saved(step_tables.MODEL)
    lines = step_tables.lines(step) if step else []
    for record in updates.saved():
        if not record["settings"]["checkpointing"]:
            lines += updates.lines(record)
    record = _saved_sampling()
    lines += _lines_of_sampling(record)
    return "\n".join([*HEAD, *lines, "", _about(step, record)])


def of_sampling() -> str:
    """All three ways of sampling, with several prompts and with one, for docs/sampling.md."""
    return "\n\n".join(sampling.table(_saved_sampling(prompts)) for prompts in (PROMPTS, 1))


def _saved_sampling(prompts: int = PROMPTS) -> dict[str, Any]:
    return json.loads(sampling.path_of("cpu", prompts).read_text(encoding="utf-8"))


def _lines_of_sampling(record: dict[str, Any]) -> list[str]:
    trl = f"{sampling.rate(record, sampling.TRL):.0f}"
    ways = (("from the merged copy", sampling.MERGED), ("from the 4-bit base with adapter", sampling.ADAPTER))
    return [
        f"| sampling {text}: tokens per second | {trl} | {sampling.rate(record, way):.0f} "
        f"| ours ÷ TRL {sampling.ratio(record, way, sampling.TRL)} |"
        for text, way in ways
    ]


def _about(step: dict[str, Any], rollouts: dict[str, Any]) -> str:
    settings = rollouts["settings"]
    of_one = sampling.ratio(_saved_sampling(1), sampling.MERGED, sampling.TRL)
    return (
        f"Medians over seeds, with the smallest and the largest ratio, on one thread of a CPU. A step has {step['settings']['pairs']} "
        f"real pairs, with {step['settings']['model']}. A rollout has {settings['completions']} completions of "
        f"{settings['completion']} tokens to each prompt of {settings['prompt']}, with a random Llama. "
        f"Completions of {settings['prompts']} prompts are sampled together, as in recipes/qwen3-4b-grpo.yaml. With one prompt, the ratio of "
        f"the merged copy is {of_one}. All in NF4 with LoRA."
    )
