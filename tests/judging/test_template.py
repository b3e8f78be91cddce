"""The text that a judge reads, and templates that people write."""

import pytest

from trl_ext.judging.judge import Question
from trl_ext.judging.template import Template
from trl_ext.support.errors import UserError

OWN = "P:{prompt}|A:{first}|B:{second}|{not} {{this}} [[FIRST]] [[SECOND]]"


def test_the_shipped_template_holds_prompt_and_answers_in_their_order():
    text = Template.load().render(Question("Why?", "Because.", "No idea."))
    assert text.index("Why?") < text.index("Because.") < text.index("No idea.") < text.index("[[FIRST]]")
    assert "{" not in text


def test_braces_in_the_answers_are_plain_text(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(OWN)
    text = Template.load(path).render(Question("{first} {0} {", "{second}", r"\1 {prompt}}"))
    assert text == r"P:{first} {0} {|A:{second}|B:\1 {prompt}}|{not} {{this}} [[FIRST]] [[SECOND]]"


def test_a_conversation_is_written_out():
    user, system = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}
    assert "=== Prompt ===\nHi\n=== End" in Template.load().render(Question([user], "a", "b"))
    turns = [system, user, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    written = "[System]\nBe brief.\n\n[User]\nHi\n\n[Assistant]\nHello\n\n[User]\nBye\n=== End"
    assert written in Template.load().render(Question(turns, "a", "b"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            OWN.replace("{second}", "{other}").encode(),
            r"own\.txt lacks \{second\}\. A template needs \{prompt\}, \{first\} and",
        ),
        (b"", r"lacks \{prompt\}, \{first\} and \{second\}\."),
        (OWN.replace("[[SECOND]]", "").encode(), r"does not ask for \[\[SECOND\]\]\. A verdict is read from"),
        (b"\xff\xfe{prompt}", r"is not a text in UTF-8\. Save it as UTF-8\."),
        (None, r"cannot be read \(No such file or directory\)\. Check the path\."),
    ],
)
def test_a_template_that_cannot_work_is_refused(tmp_path, content, said):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        Template.load(path)
