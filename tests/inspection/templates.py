"""Small chat templates that treat messages as those of published model families do, and a tokenizer for them."""

from __future__ import annotations

from typing import Any

CHATML = """
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# As Qwen3: reasoning is kept in the last turn only; tools and their calls are written; unknown roles are skipped.
THINKING = """
{%- if tools %}{{ '<|im_start|>system\nTools: ' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}
  {%- if m.role in ('system', 'user') %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
  {%- elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
  {%- elif m.role == 'assistant' %}
    {%- set answer = m.content.split('</think>')[-1].lstrip('\n') %}
    {%- set thought = m.reasoning_content or '' %}
    {%- if '</think>' in m.content %}{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% endif %}
    {{- '<|im_start|>assistant\n' }}
    {%- if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
    {{- answer }}
    {%- for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}
    {{- '<|im_end|>\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# As DeepSeek's distilled models: reasoning never comes back, and the opening tag belongs to the prompt.
STRIPPING = """
{%- for m in messages %}
  {%- if m.role == 'assistant' %}{{ '<|A|>' + m.content.split('</think>')[-1] + '<|end|>' }}
  {%- elif m.role in ('system', 'user') %}{{ '<|U|>' + m.content }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|A|><think>\n' }}{% endif %}"""

# As Llama 3: a beginning token, a date, trimmed texts; results of tools are written as JSON.
DATED = """
{{- bos_token + '<|h|>system<|/h|>\n\nToday: 26 Jul 2024\n\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}
{{- '<|eot|>' }}
{%- for m in messages %}
  {%- if m.tool_calls %}{{ '<|h|>assistant<|/h|>\n\n{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}
    {{- m.tool_calls[0].function.arguments | tojson }}{{ '}<|eot|>' }}
  {%- elif m.role == 'tool' %}{{ '<|h|>ipython<|/h|>\n\n' + (m.content | tojson) + '<|eot|>' }}
  {%- else %}{{ '<|h|>' + m.role + '<|/h|>\n\n' + (m.content | trim) + '<|eot|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}{% endif %}"""

# As SmolLM3: a line of its own says whether to think, by a variable or a switch in the system's text, which is not written; without
# thinking, every turn of the assistant begins with an empty thought; contents that are no text are left out.
SWITCHED = """
{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- set mode = '/think' if enable_thinking else '/no_think' %}
{%- set asked = messages[0].content if messages[0].role == 'system' else '' %}
{%- if '/no_think' in asked %}{% set mode = '/no_think' %}{% elif '/think' in asked %}{% set mode = '/think' %}{% endif %}
{%- set asked = asked.replace('/no_think', '').replace('/think', '').rstrip() %}
{%- set empty = '' if mode == '/think' else '<think>\n\n</think>\n' %}
{{- '<|im_start|>system\n' }}
{%- if '/system_override' in asked %}{{ asked.replace('/system_override', '').rstrip() }}
{%- else %}{{ 'Mode: ' + mode + '\n\n' + (asked or 'Be helpful.') + '\n\n' }}
  {%- if xml_tools %}{% for t in xml_tools %}{{ t | string + '\n' }}{% endfor %}{% endif %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for m in messages %}
  {%- set content = m.content if m.content is string else '' %}
  {%- if m.role in ('user', 'tool') %}{{ '<|im_start|>user\n' + content + '<|im_end|>\n' }}
  {%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + empty + content.lstrip('\n') + '<|im_end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' + empty }}{% endif %}"""

# As Gemma: no system turn, another name for the assistant, trimmed texts, strictly alternating turns.
ALTERNATING = """
{{- bos_token }}
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
  {{- '<|t|>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (m.content | trim) + '<|/t|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|t|>model\n' }}{% endif %}"""

# As Mistral: the system's text stands in the last turn of the user.
LATE_SYSTEM = """
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if system else messages %}
{%- for m in turns %}
  {%- if m.role == 'user' %}
    {%- if m == (turns | selectattr('role', 'equalto', 'user') | list)[-1] and system %}
      {{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
    {%- else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}
  {%- elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}
{%- endfor %}"""

END = {
    CHATML: "<|im_end|>",
    THINKING: "<|im_end|>",
    STRIPPING: "<|end|>",
    SWITCHED: "<|im_end|>",
    DATED: "<|eot|>",
    ALTERNATING: "<|/t|>",
    LATE_SYSTEM: "</s>",
}
"""{template: the token that ends a turn}"""
MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|U|>",
    "<|A|>",
    "<|end|>",
    "<|h|>",
    "<|/h|>",
    "<|eot|>",
    "<|t|>",
    "<|/t|>",
    "</s>",
    "<s>",
]


def tokenizer(template: str | None, eos: str | None = None) -> Any:
    """A tokenizer of single bytes, which can write every text, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos or END.get(template, "</s>"), bos_token="<s>", pad_token="<pad>"
    )
    made.add_tokens(MARKS, special_tokens=True)
    made.chat_template = template
    return made
