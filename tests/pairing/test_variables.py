"""What a prompt gives the chat template besides its messages stays with it: on disk, and in the rows that are made."""

from trl_ext.judging.judge import Conversation
from trl_ext.pairing.group import Completion, Group
from trl_ext.pairing.kept import Kept
from trl_ext.pairing.rows import choose, rows
from trl_ext.pairing.settings import Selection

MESSAGES = [{"role": "user", "content": "What time is it?"}]
CLOCK = [{"type": "function", "function": {"name": "clock"}}]
PROMPTS = [
    MESSAGES,
    Conversation(MESSAGES),
    Conversation(MESSAGES, {"tools": CLOCK}),
    Conversation(MESSAGES, {"loud": True}),
]


def test_equal_messages_with_other_variables_are_other_prompts(tmp_path):
    Kept(tmp_path / "kept.jsonl").add(zip(PROMPTS[1:], [2, 3, 4], strict=True))
    kept = Kept(tmp_path / "kept.jsonl")
    assert [kept[prompt] for prompt in PROMPTS] == [2, 2, 3, 4]  # the first two are the same prompt


def test_rows_have_the_columns_that_trl_reads():
    groups = [Group(prompt, [Completion("Nine.", 2, True), Completion("No.", 2, True)]) for prompt in PROMPTS]
    made = rows([choose(group, [1.0, 0.0], Selection()) for group in groups])
    columns = [{key: row[key] for key in ("tools", "chat_template_kwargs") if key in row} for row in made]
    assert columns == [{}, {}, {"tools": CLOCK}, {"chat_template_kwargs": {"loud": True}}]
    assert all(row["prompt"] == MESSAGES for row in made)
