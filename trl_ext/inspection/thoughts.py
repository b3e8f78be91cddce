"""Count the thoughts that completions are trained on, and keep empty ones out of what is learned.

The tokens of a completion show what the model learns to write, whatever the data says: a chat template may leave a thought out,
or write an empty one.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from trl import is_conversational

from trl_ext.data import template_variables, thoughts
from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.statements import pieces
from trl_ext.inspection.facts import Facts
from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.methods import Method

NONE, WHOLE, EMPTY, INSERTED, CUT = range(5)
"""What a completion holds: no thought, a thought, an empty one of its own, an empty one that the template wrote, one that is cut."""
KINDS = {
    WHOLE: "with a thought",
    EMPTY: "with an empty thought",
    INSERTED: "with an empty thought from the chat template",
    CUT: "with a cut thought",
    NONE: "without a thought",
}
FLAGS = {"thought_empty": EMPTY, "thought_inserted": INSERTED, "thought_cut": CUT}
FLAGS_IF_MASKED = {"thought_unanswered": CUT}
"""The same where thoughts are not learned: empty ones cost nothing."""
LONGEST = 24
"""Tokens of an empty thought, at most."""
COLUMN = "_trl_ext_thoughts_"
ENDS = tuple(end for _, end in thoughts.TAGS if end != "<|end|>")
"""Closing tags of thoughts that end nothing else."""
PROMPTS = ("prompt", "messages", "tools", template_variables.COLUMN)
"""Columns that a prompt is written from."""


def kinds(facts: Facts, given: Dataset, tokenised: Dataset, tokenizer: Any) -> dict[str, np.ndarray]:
    """{name of a completion: its kind in each example, after the cut}; empty where prompts alone are read.

    Args:
        facts: The facts about the tokenised examples, whose cuts apply.
        given: The examples.
        tokenised: The same examples with the `token_columns` of the method.
        tokenizer: Decodes tokens.
    """
    method = facts.method
    if method.reads == "prompts" or not len(given):
        return {}
    names = list(facts.kept)
    said = given.select_columns([name for name in thoughts.COMPLETIONS if name in given.column_names])
    lengths = {name: np.stack([facts.lengths[name], facts.kept[name]], axis=1) for name in names}
    found = tokenised.select_columns(list(method.token_columns)).map(
        _kinds,
        batched=True,
        with_indices=True,
        fn_kwargs={
            "method": method,
            "said": said,
            "lengths": lengths,
            "keeps_end": facts.limits.keep_end,
            "tokenizer": tokenizer,
        },
        remove_columns=list(method.token_columns),
        features=Features({COLUMN + name: Value("uint8") for name in names}),
        new_fingerprint=fingerprint(tokenised, "thoughts", said._fingerprint, facts.limits),
        desc="Counting thoughts",
    )
    arrays = {name: np.asarray(found.with_format("numpy")[COLUMN + name][:]) for name in names}
    return arrays if any(array.any() for array in arrays.values()) else {}


def flags(found: dict[str, np.ndarray], given: Dataset, processing_class: Any, choice: str) -> dict[str, np.ndarray]:
    """{name of a finding: whether it is true of each example}.

    Args:
        found: See `kinds`.
        given: The examples.
        processing_class: Tokenizer or processor.
        choice: The setting `thoughts`.
    """
    if not found:
        return {}
    looked_for = FLAGS_IF_MASKED if choice == thoughts.MASKED else FLAGS
    made = {name: np.any([array == kind for array in found.values()], axis=0) for name, kind in looked_for.items()}
    made["thought_against_prompt"] = _after_switched_off(
        given, np.any([np.isin(array, (WHOLE, CUT)) for array in found.values()], axis=0), processing_class
    )
    return made


def counts(facts: Facts) -> dict[str, dict[str, int]]:
    """{name of a completion: {what it holds: number of examples that are kept}}, without those that occur nowhere."""
    kept = {name: kind[~facts.is_dropped] for name, kind in facts.thoughts.items()}
    return {
        name: {words: number for kind, words in KINDS.items() if (number := int((array == kind).sum()))}
        for name, array in kept.items()
    }


def into_prompts(method: Method, tokenised: Dataset, processing_class: Any, choice: str) -> Dataset:
    """The examples with empty thoughts at the start of completions moved into their prompts, which are not learned.

    Both completions of a pair share the prompt, so both have to begin with it. A reward model learns from the last token of a
    whole sequence and is left as it is.

    Args:
        choice: The setting `thoughts`; with `all`, nothing is moved.
    """
    if choice == thoughts.ALL or method.reads == "prompts" or method.trains_scores:
        return tokenised
    move = _unlabelled if method.reads == "demonstrations" else _moved
    return tokenised.map(
        move,
        fn_kwargs={"method": method, "tokenizer": text_tokenizer(processing_class)},
        new_fingerprint=fingerprint(tokenised, "empty thoughts", method.name),
        desc="Leaving out empty thoughts",
    )


def _moved(row: dict[str, Any], method: Method, tokenizer: Any) -> dict[str, Any]:
    names = [f"{name}_ids" for name in method.completions]
    beginnings = [row[name][: empty_length(row[name], tokenizer)] for name in names]
    if not beginnings[0] or any(other != beginnings[0] for other in beginnings):
        return {}
    length = len(beginnings[0])
    return {"prompt_ids": row["prompt_ids"] + beginnings[0], **{name: row[name][length:] for name in names}}


def _unlabelled(row: dict[str, Any], method: Method, tokenizer: Any) -> dict[str, Any]:
    labels = list(row["labels"])
    for start in _starts(labels):
        length = empty_length(row["input_ids"][start:], tokenizer)
        labels[start : start + length] = [-100] * length
    return {"labels": labels}


def _starts(labels: list[int]) -> list[int]:
    """Where each stretch of learned tokens begins."""
    return [i for i, label in enumerate(labels) if label != -100 and (i == 0 or labels[i - 1] == -100)]


def empty_length(ids: list[int], tokenizer: Any) -> int:
    """The number of tokens of the empty thought that a completion begins with; 0 without one."""
    if thoughts.EMPTY.match(tokenizer.decode(ids[:LONGEST])) is None:
        return 0
    return max(
        (
            length
            for length in range(1, len(ids[:LONGEST]) + 1)
            if thoughts.EMPTY.fullmatch(tokenizer.decode(ids[:length]))
        ),
        default=0,
    )


def _kinds(batch: dict[str, list], indices: list[int], **known: Any) -> dict[str, list]:
    method, said, lengths = known["method"], known["said"][indices[0] : indices[-1] + 1], known["lengths"]
    made: dict[str, list] = {COLUMN + name: [] for name in lengths}
    for place, index in enumerate(indices):
        row = {name: column[place] for name, column in batch.items()}
        for name in lengths:
            before, ids = _parts(method, row, name)
            length, kept = (int(number) for number in lengths[name][index])
            start = length - kept if known["keeps_end"] else 0
            column = said.get(name, said.get("messages"))
            has_own = _says_a_thought(column[place]) if column is not None else True
            made[COLUMN + name].append(_kind(before, ids[start : start + kept], has_own, known["tokenizer"]))
    return made


def _parts(method: Method, row: dict[str, Any], name: str) -> tuple[list[int], list[int]]:
    """The tokens before a completion, and its own. A reward model's sequences hold both."""
    if method.reads == "demonstrations":
        start = next((i for i, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))
        return row["input_ids"][:start], row["input_ids"][start:]
    return row.get("prompt_ids", []), row[f"{name}_ids"]


def _kind(before: list[int], ids: list[int], has_own: bool, tokenizer: Any) -> int:
    found = thoughts.found_in(tokenizer.decode(ids), thoughts.is_open(tokenizer.decode(before)))
    if not found:
        return NONE
    if not all(is_whole for _, is_whole in found):
        return CUT
    if any(said.strip() for said, _ in found):
        return WHOLE
    return EMPTY if has_own else INSERTED


def _says_a_thought(completion: Any) -> bool:
    """Whether the data has a thought here, be it an empty one."""
    if isinstance(completion, str):
        return bool(thoughts.found_in(completion))
    if any(piece.kind == "reasoning" for piece in pieces(completion)):
        return True
    return any(
        isinstance(message["content"], str) and thoughts.found_in(message["content"])
        for message in completion
        if message["role"] == "assistant"
    )


def _after_switched_off(given: Dataset, thinks: np.ndarray, processing_class: Any) -> np.ndarray:
    """The examples that think although the chat template ends their prompt with an empty thought, to be answered at once.

    The template is asked for each prompt, because a row's own variables and a switch in its system text decide, too.
    """
    against = np.zeros(len(given), dtype=bool)
    if not is_conversational(given[0]) or not getattr(processing_class, "chat_template", None):
        return against
    rows = given.select_columns([name for name in PROMPTS if name in given.column_names])
    for place in np.flatnonzero(thinks).tolist():
        row = rows[place]
        against[place] = _is_switched_off(
            row.get("prompt") or _before_the_answer(row.get("messages", [])),
            row.get("tools"),
            row.get(template_variables.COLUMN) or {},
            processing_class,
        )
    return against


def _before_the_answer(messages: list[dict]) -> list[dict]:
    """A conversation without its last turn of the assistant, and all that follows."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    return messages[:last]


def _is_switched_off(prompt: list[dict], tools: Any, variables: dict[str, Any], processing_class: Any) -> bool:
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
        text = processing_class.apply_chat_template(
            prompt, tools=tools or None, tokenize=False, add_generation_prompt=True, **variables
        )
    except Exception:  # templates are programs and raise anything
        return False
    return text.rstrip().endswith(ENDS)
