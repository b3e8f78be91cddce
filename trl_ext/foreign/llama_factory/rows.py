"""Read how a LLaMA-Factory file makes token ids of its rows: template, length, packing, and which tokens are trained."""

from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.dataset_info import sources
from trl_ext.foreign.llama_factory.file_values import OFF, UNSET, lost, stage, unread
from trl_ext.foreign.meaning import Meaning


def _length(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    match stage(values):
        case "ppo":
            return Meaning(
                reason="prompts are never cut, and `max_completion_length` limits the completions that are sampled"
            )
        case "rm":
            return Meaning({"max_length": value}, changes="longer rows are dropped, not cut")
        case "dpo" | "kto" | "orpo" | "sft":
            return Meaning(
                {"max_length": value},
                changes="longer rows are cut at their end; LLaMA-Factory cuts prompt and completion in proportion",
            )
    return Meaning({"max_length": value})


def _packing(on: Any, values: Values) -> Meaning | tuple[()]:
    """Pre-training packs by default, and in blocks of `cutoff_len`."""
    kind = stage(values)
    if kind == "pt":
        return (
            Meaning({"packing": True, "packing_strategy": "wrapped"})
            if on in (None, True)
            else Meaning({"packing": False})
        )
    if kind != "sft":
        return unread(values)
    if values.get("neat_packing"):
        return Meaning(
            {"packing": True, "packing_strategy": "bfd"}, "`bfd` packs whole rows, each with positions of its own"
        )
    if not on:
        return ()
    return Meaning(
        {"packing": True, "packing_strategy": "bfd"},
        changes="with flash attention the rows of a pack do not see each other; in LLaMA-Factory they do",
    )


def _neat_packing(on: Any, values: Values) -> Meaning | tuple[()]:
    return _packing(True, values) if on and stage(values) == "sft" else OFF if not on else unread(values)


def _prompt_trained(on: Any, values: Values) -> Meaning:
    if stage(values) != "sft":
        return unread(values)
    if not on:
        return Meaning(reason="prompts are not trained on, as here")
    return Meaning({"completion_only_loss": False}, "the loss covers every token")


def _last_turn(on: Any, values: Values) -> Meaning:
    if stage(values) != "sft":
        return unread(values)
    if not on:
        return Meaning(reason="every assistant turn is trained on, as with `assistant_only_loss`")
    return Meaning(
        reason="the loss covers all turns of the assistant, or the completion of rows with a prompt and a completion",
        changes="earlier assistant turns of a conversation are trained on too",
    )


def _template(name: Any, values: Values) -> Meaning:
    if name in (None, ""):
        return Meaning(reason="the tokenizer's own chat template is used")
    if stage(values) == "pt":
        return Meaning(reason="plain texts have no turns")
    if name == "empty" and not any(source.is_conversation for source in sources(values.get("dataset"), values)):
        return Meaning(
            {"apply_chat_template": False},
            "`empty` writes no turns",
            "an end-of-sequence token follows each completion",
        )
    return Meaning(
        reason="the tokenizer's own chat template is used (`trl-ext data RECIPE` shows the text)",
        changes=f"turns and system prompt are those of the tokenizer, which may differ from LLaMA-Factory's `{name}`",
    )


def _thinking(value: Any, values: Values) -> Meaning:
    if value is None:
        return Meaning(reason="the chat template decides about reasoning")
    return Meaning({"chat_template_kwargs": {"enable_thinking": bool(value)}})


MEANS: dict[str, str | Meaning | Reader] = {
    "cutoff_len": _length,
    "reserved_label_len": Meaning(reason="rows are cut at their end"),
    "ignore_pad_token_for_loss": lambda on, values: (
        Meaning(reason="padding is never trained on")
        if on in (None, True)
        else Meaning(reason="padding is never trained on", changes="the loss leaves padding out")
    ),
    "packing": _packing,
    "neat_packing": _neat_packing,
    "train_on_prompt": _prompt_trained,
    "mask_history": _last_turn,
    "template": _template,
    "default_system": lambda value, values: (
        UNSET
        if value is None
        else Meaning(
            reason="system prompts are part of the data, in `messages` or a column `system`",
            changes="rows without one do not get this system prompt",
        )
    ),
    "enable_thinking": _thinking,
    "preserve_thinking": lost(
        "the chat template decides about reasoning in earlier turns", "earlier turns may lose their reasoning"
    ),
    "tool_format": lambda value, values: (
        UNSET if not value else Meaning(reason="the chat template writes tools and calls")
    ),
}
