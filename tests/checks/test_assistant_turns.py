"""`assistant_only_loss` needs a chat template that marks the assistant's tokens."""

import inspect
import json
import re
from pathlib import Path

import pytest
import trl
from trl import chat_template_utils

from tests.recipe.helpers import load_from, problem
from trl_ext.model_files.chat_template import Template, marked_by_trl

SFT = "trainer: sft\ndataset_name: org/data\nassistant_only_loss: true\nmodel_name_or_path: model\n"
MARKED = "{% for m in messages %}{%- generation -%}{{ m.content }}{%- endgeneration -%}{% endfor %}"
TEMPLATES = Path(trl.__file__).parent / "chat_templates"


def write_model(folder: Path, template: str | None) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    settings = {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "the tokenizer of model has no chat template"),
        ("{{ messages[0].content }}", "has a chat template without `{% generation %}` marks around them"),
    ],
)
def test_a_template_without_marks(tmp_path, monkeypatch, template, words):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", template)
    said = problem(tmp_path, "", SFT)
    assert words in said and "`assistant_only_loss: false`" in said


def test_templates_that_are_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", MARKED)
    load_from(tmp_path, SFT)
    write_model(tmp_path / "other", (TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8"))
    load_from(tmp_path, SFT.replace("path: model", "path: other"))
    (tmp_path / "plain.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert "marks around them" in problem(tmp_path, "chat_template_path: plain.jinja\n", SFT)


def test_the_templates_that_trl_replaces():
    source = inspect.getsource(chat_template_utils.get_training_chat_template)
    known = [getattr(chat_template_utils, name) for name in re.findall(r"chat_template == (\w+):", source)]
    assert marked_by_trl() == set(known) and len(known) > 20


@pytest.mark.parametrize("text", [MARKED, "{% generation %}", "{{ generation }}", "{%-generation%}", ""])
def test_marks_are_found_as_trl_finds_them(text):
    assert Template(text).is_marked is chat_template_utils.has_generation_markers(text)
