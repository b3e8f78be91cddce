"""What `validate` says of a template and the first rows agrees with transformers' rendering, and with the check before a run."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.inspection.templates import ALTERNATING, CHATML, DATED, LATE_SYSTEM, STRIPPING, THINKING, tokenizer
from tests.inspection.test_missing import CALL, TOOLS, assistant, findings, pairs, user
from trl_ext.cli import main
from trl_ext.data.template_losses import losses
from trl_ext.model_files.chat_template import Template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ROWS = [
    ([user("Why “so”?"), assistant("<think>hm</think>A"), user("r")], [assistant("<think>ok</think>B")], [assistant("C")]),
    ([user("q")], [assistant("<think>only this</think>")], [assistant("No")]),
    ([user("q")], [assistant("Looking.", tool_calls=[CALL])], [assistant("No")]),
    ([user("q"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": '{"t": 3}'}], [assistant("3")], [assistant("4")]),
    ([{"role": "system", "content": "Be brief."}, user("q")], [assistant("Yes", reasoning_content="see")], [assistant("No")]),
    ([user("q"), {"role": "narrator", "content": "It rains."}], [assistant("Y")], [assistant("N")]),
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def as_rows(*triples, **more):
    return [dict(zip(("prompt", "chosen", "rejected"), row, strict=True), **more) for row in triples]


@pytest.mark.parametrize("template", [CHATML, THINKING, STRIPPING, DATED, ALTERNATING, LATE_SYSTEM])
def test_the_text_is_that_of_transformers(template):
    made, here = tokenizer(template, "</s>"), Template(template, TOKENS)
    compared = 0
    for prompt, chosen, _ in ROWS:
        for given in ({}, {"tools": TOOLS}, {"add_generation_prompt": True}):
            try:
                expected = made.apply_chat_template([*prompt, *chosen], tokenize=False, **given)
            except Exception:
                with pytest.raises(Exception, match=r"."):
                    here.render([*prompt, *chosen], **given)
                continue
            assert here.render([*prompt, *chosen], **given) == expected
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("template", [CHATML, THINKING, STRIPPING, DATED])
def test_each_row_is_judged_as_before_a_run(template, write):
    for row in ROWS:
        found = losses("pairs", Template(template, TOKENS), write(as_rows(row)))
        before = findings("paired", pairs(row), template)
        assert found.is_all and found.total == 1
        assert (found.lacking, found.empty) == (bool(before.details), int(before.facts.flags["nothing_left"][0]))


def test_other_kinds_of_rows(write):
    call = {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "c"}})}
    path = write([{"conversations": [{"from": "human", "value": "Weather?"}, call], "tools": json.dumps(TOOLS)}] * 3)
    assert losses("demonstrations", Template(THINKING, TOKENS), path)[:3] == (3, 0, 0)
    found = losses("demonstrations", Template(CHATML, TOKENS), path)
    assert (
        found[:3] == (3, 3, 3)
        and found.example == "Row 0, for instance, lacks 'get_forecast' (tools), 'weather' (assistant) and 1 more"
    )
    path = write([{"prompt": [{"role": "narrator", "content": "Go on"}]}] * 3)
    assert losses("prompts", Template(STRIPPING, TOKENS), path)[:3] == (3, 3, 3)
    assert losses("prompts", Template(CHATML, TOKENS), path)[:3] == (3, 0, 0)
    parts = [{"type": "text", "text": "Go "}, {"type": "text", "text": "on"}]
    path = write([{"prompt": [{"role": "user", "content": parts}], "completion": [assistant("<think>x</think>")]}] * 3)
    assert losses("demonstrations", Template(STRIPPING, TOKENS), path)[:3] == (3, 3, 3)
    assert losses("demonstrations", Template(CHATML, TOKENS), path)[:3] == (3, 0, 0)


def test_validate_refuses_what_is_known_and_notes_the_rest(tiny_model, tmp_path, write, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    Path(model, "chat_template.jinja").write_text(STRIPPING)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(
            {"model_name_or_path": str(model), "dataset_name": str(tmp_path / "rows.jsonl"), "use_peft": True}
        )
    )
    words = ["validate", str(tmp_path / "r.yaml")]
    gone = as_rows(([user("q")], [assistant("<think>this</think>")], [assistant("<think>that</think>")]))
    fine = as_rows(([user("q")], [assistant("Yes")], [assistant("No")]))
    write(gone * 12)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert (
        "in 12 of 12 rows, the chat template leaves out all that a completion says. Row 0" in said and "'this'" in said
    )
    assert main([*words, "--apply_chat_template", "auto"]) == 2
    capsys.readouterr()
    write(gone + fine * 5)
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Note: The chat template leaves out text of messages in 1 of 6 rows, and in 1 of them all" in said
    write(gone * 80)  # the other rows are not read
    assert main(words) == 0
    assert "in 64 of the first 64 rows" in " ".join(capsys.readouterr().out.split())
    write(fine * 5)
    assert main(words) == 0 and "leaves out" not in capsys.readouterr().out
