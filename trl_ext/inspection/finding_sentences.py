"""Word the findings about training examples."""

MISSING = {
    "text": "text",
    "reasoning": "reasoning",
    "calls": "a tool call",
    "name": "the name of a speaker",
    "tools": "a tool declared in `tools`",
}
"""{kind of piece of `trl_ext.inspection.statements`: what it is called}"""

LACKING = ("nothing_left", *(f"{kind}_{how}" for kind in MISSING for how in ("not_learned", "missing")))
"""Findings about examples whose tokens lack something that their messages say."""

SENTENCES = {
    "nothing_left": "nothing of what {said} says is left among its tokens",
    **{
        f"{kind}_not_learned": f"{what} of a completion is not among the tokens, because {{leaver}} leaves it out; it is not "
        "learned"
        for kind, what in MISSING.items()
    },
    **{
        f"{kind}_missing": f"{what} is not among the tokens of the prompt, because {{leaver}} leaves it out; the model does "
        "not see it"
        for kind, what in MISSING.items()
    },
    "prompt_cut": "the beginning of the prompt is cut; `truncation_mode: keep_end` keeps the last {limit:,} tokens (`max_length`)",
    "chosen_cut": "the chosen completion is cut; prompt and completion have more than {limit:,} tokens (`max_length`)",
    "rejected_cut": "the rejected completion is cut; prompt and completion have more than {limit:,} tokens (`max_length`)",
    "completion_cut": "the completion is cut; prompt and completion have more than {limit:,} tokens (`max_length`)",
    "identical_cut": "chosen and rejected differ only beyond the cut at `max_length`, so they teach no preference",
    "identical": "chosen and rejected have the same tokens, so they teach no preference",
    "eos_lost": "the cut removes the end-of-sequence token of a completion, so the completion does not teach the model to stop",
    "no_eos": "a completion does not end with {stops}, because neither the data nor the chat template adds it; it does not teach "
    "the model to stop",
    "double_end": "a completion ends with two end-of-sequence tokens; the model learns to write the second after the first",
    "double_beginning": "the sequence begins with the beginning-of-sequence token twice",
    "prompt_ended": "the prompt ends with {stops}, so completions come after the end of a sequence",
    "thought_empty": "a completion has an empty thought, which is trained on; `thoughts: no_empty` leaves it out",
    "thought_inserted": "the chat template writes an empty thought before the answer, which is trained on; "
    "`thoughts: no_empty` leaves it out, and `chat_template_kwargs: {{enable_thinking: false}}` puts it into the prompt where the "
    "template has that variable",
    "thought_cut": "the thought of a completion is cut, so the completion teaches the model to think without an answer",
    "thought_unanswered": "the thought of a completion is cut, and thoughts are masked, so nothing of the completion is learned",
    "thought_against_prompt": "the completion thinks, and the chat template ends prompts with an empty thought; `thoughts: answer` "
    "removes the thoughts, and `chat_template_kwargs: {{enable_thinking: true}}` asks for them where the template has that variable",
    "empty": "the completion is empty, which teaches the model to generate nothing",
    "contradictory": "the same completion of the same prompt is labelled both desirable and undesirable",
    "duplicate": "the tokens are identical to those of an earlier row",
    "beyond_context": "the sequence{with_completion} exceeds the {context:,} positions of the model",
}
"""{name of a finding about examples that are kept: the end of a sentence "12 pairs: …"}."""

IN_BRIEF = {
    "nothing_left": "with nothing left of {said}",
    **{
        f"{kind}_not_learned": f"without {what} of a completion, which {{leaver}} leaves out"
        for kind, what in MISSING.items()
    },
    **{
        f"{kind}_missing": f"without {what} of the prompt, which {{leaver}} leaves out"
        for kind, what in MISSING.items()
    },
    "prompt_cut": "with the beginning of the prompt cut",
    "chosen_cut": "with the chosen completion cut",
    "rejected_cut": "with the rejected completion cut",
    "completion_cut": "with the completion cut",
    "identical_cut": "with completions that differ only beyond the cut, which teach no preference",
    "eos_lost": "with an end-of-sequence token cut off",
    "no_eos": "with a completion that does not end with {stops}",
    "double_end": "with a completion that ends twice",
    "double_beginning": "with the beginning-of-sequence token twice",
    "prompt_ended": "with a prompt that ends with {stops}",
    "thought_empty": "with an empty thought",
    "thought_inserted": "with an empty thought that the chat template writes",
    "thought_cut": "with a cut thought",
    "thought_unanswered": "with a cut thought, of which nothing is learned",
    "thought_against_prompt": "with a thought after a prompt that ends with an empty one",
    "empty": "with an empty completion",
    "contradictory": "labelled both desirable and undesirable",
    "beyond_context": "with more tokens{with_completion} than the {context:,} positions of the model",
}
"""{name of a finding: the end of "12 …"} for the summary before a run. The report on the data has mentioned the others."""
