"""YAML as recipes need it."""

import pytest
import yaml

from tests.recipe.helpers import problem, problems
from trl_ext.recipe import reader
from trl_ext.support.errors import UserError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5e-6", 5e-6),
        ("5E-7", 5e-7),
        ("1e3", 1000.0),
        ("1.e3", 1000.0),
        (".5e1", 5.0),
        ("-1e-2", -0.01),
        ("5.0e-6", 5e-6),
    ],
)
def test_numbers(text, number):
    read = reader.parse(text)
    assert read == number and type(read) is float


@pytest.mark.parametrize("text", ["e5", "1e", "5e-6x", "1e-2-3", "deadbeef", "2025-01-31", "v1.0"])
def test_texts(text):
    assert reader.parse(text) == text


def test_everything_else_is_as_pyyaml_reads_it():
    text = "a: 1\nb: [1, x]\nc: {d: no}\ne: 0.5\nf: ~\ng: 'quoted 5e-6'\nh: &x {i: 1}\nj: {<<: *x, k: 2}\n"
    assert reader.parse(text) == yaml.safe_load(text)


def test_repeated_keys_are_named_with_both_lines(tmp_path):
    found = problems(tmp_path, "beta: 0.1\nloss: dpo\nbeta: 0.2\nvariants:\n  ipo: {beta: 1, beta: 2}\n")
    assert found == [
        "`beta` is given twice, on lines 3 and 5: keep one of them.",
        "`variants.ipo.beta` is given twice, on lines 7 and 7: keep one of them.",
    ]


def test_a_merge_key_may_override(tmp_path):
    (tmp_path / "r.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\n")
    document = reader.read(tmp_path / "r.yaml")
    assert document.problems == [] and document.values["b"] == {"x": 2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("loss: [dpo\nbeta: 1\n", "line 4 is not YAML"),
        ("variants:\n\tipo: 1\n", "Indent with spaces, not tabs."),
    ],
)
def test_syntax_errors_name_the_line(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text)


def test_what_is_no_recipe(tmp_path):
    assert "is empty" in problem(tmp_path, "", base="# nothing\n")
    assert "with a space after the colon" in problem(tmp_path, "", base="learning_rate:5e-6\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a text file"):
        reader.read(tmp_path / "binary.yaml")


def test_a_path_that_is_not_there_gets_the_nearest(tmp_path):
    (tmp_path / "demo.yaml").write_text("a: 1\n")
    for wrong in ("demo.yml", "dmeo.yaml", "demo"):
        with pytest.raises(UserError, match=r"There is no recipe .*\. Did you mean .*demo\.yaml\?"):
            reader.read(tmp_path / wrong)
    with pytest.raises(UserError, match=r"is a folder\. Give a recipe file, for instance .*demo\.yaml"):
        reader.read(tmp_path)


def test_keys_are_what_is_written(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("no: 1\nnull: 2\n5e-6: 3\n1: 4\n")
    document = reader.read(path)
    assert document.values == {"no": 1, "null": 2, "5e-6": 3, "1": 4} and document.lines[("5e-6",)] == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 0x_\n", "does not match its tag"),  # PyYAML takes it for a number and then cannot read it
        ("a: !!int x\n", "does not match its tag"),
        ("a: " + "[" * 5000, "it is nested too deeply"),
        ("a: b\n\x01", r"line 2 is not YAML (it has the character '\x01')"),
    ],
)
def test_what_pyyaml_stumbles_over(tmp_path, text, sentence):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        reader.read(tmp_path / "r.yaml")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_an_alias_of_itself(tmp_path):
    (tmp_path / "r.yaml").write_text("a: &x [1, *x]\n")
    values = reader.read(tmp_path / "r.yaml").values
    assert values["a"][1] is values["a"]
