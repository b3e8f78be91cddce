"""The command line: what is printed, the exit code, and what is not imported."""

import argparse
import io
import json
import subprocess
import sys
import types

import pytest

import trl_ext
from trl_ext import cli, losses

GOOD = "model_name_or_path: embedded\ndataset_name: embedded\nloss: dpo\nvariants: {ipo: {beta: 0.3}}\n"
THREE_MISTAKES = "model_name_or_path: embedded\ndataset_name: embedded\nlora_rank: 8\nlearning_rate: fast\nbeta: -1\n"
HEAVY = ["datasets", "peft", "torch", "transformers", "trl"]


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def in_a_new_process(*words: str) -> tuple[int, str, list[str]]:
    """Exit code, everything printed, and which heavy modules were imported."""
    code = (
        "import json, sys; from trl_ext.cli import main; code = main(sys.argv[1:]);"
        f"print('#', json.dumps([code, [m for m in {HEAVY} if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    printed, _, facts = done.stdout.rpartition("# ")
    code, imported = json.loads(facts)
    return code, printed + done.stderr, imported


def test_help_imports_nothing_heavy():
    code, printed, imported = in_a_new_process("--help")
    assert code == 0 and imported == []
    for verb in cli.VERBS:
        assert verb in printed


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_three_mistakes_are_all_named(recipe, verb):
    code, printed, imported = in_a_new_process(verb, recipe(THREE_MISTAKES))
    assert code == 2 and imported == []
    assert "3 problems in" in printed
    for name in ("`lora_rank` (line 3)", "`learning_rate` (line 4)", "`beta` (line 5)"):
        assert name in printed


def test_python_dash_m(recipe):
    done = subprocess.run(
        [sys.executable, "-m", "trl_ext", "validate", recipe(THREE_MISTAKES)], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and "3 problems" in done.stderr


def test_validate_shows_what_was_asked_for(recipe, capsys):
    assert cli.main(["validate", recipe(GOOD), "--loss", "ipo", "--learning_rate=5e-6"]) == 0
    printed = capsys.readouterr().out
    for shown in (
        "is valid.",
        losses.describe("ipo").formula,
        "beta 0.3",
        "5e-06",
        "embedded [train], comes with trl-ext; the loss reads pairs",
    ):
        assert shown in printed


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["trainer=ppo", "reward_funcs=sentiment", "num_iterations=2"],
            [
                "PPO",
                "sentiment",
                "k1 in the reward at token level, coefficient 0.05",
                "1 completion per prompt, 2 epochs per rollout",
            ],
        ),
        (
            ["trainer=reward"],
            ["reward model: −log σ(r(chosen) − r(rejected))", "embedded [train], comes with trl-ext, pairs"],
        ),
        (["trainer=sft"], ["supervised fine-tuning: −log π of the completion's tokens"]),
    ],
)
def test_validate_shows_what_a_trainer_is_asked_for(words, lines, recipe, capsys):
    path = recipe("model_name_or_path: embedded\ndataset_name: embedded\nuse_peft: true\n")
    assert cli.main(["validate", path, *(f"--{word}" for word in words)]) == 0
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines), printed


def test_validate_prints_notes(recipe, capsys):
    assert cli.main(["validate", recipe(GOOD + "eval_size: 10\n")]) == 0
    assert "Note: `eval_size` (line 5)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["losses", "simppo"], "There is no loss 'simppo'. Did you mean simpo"),
        (["rn", "x.yaml"], "There is no verb 'rn': did you mean run?"),
        (["frobnicate"], f"allowed are {', '.join(sorted(cli.VERBS))}."),
        (["recipes/x.yaml", "--loss", "ipo"], "`trl-ext run recipes/x.yaml --loss ipo`"),
        (["--loss", "ipo"], "a verb goes first"),
        (["run"], "The recipe comes first: `trl-ext run RECIPE`."),
        (["run", "--loss", "ipo", "x.yaml"], "The recipe comes first: `trl-ext run x.yaml --loss ipo`."),
        (["validate", "no/where.yaml"], "There is no recipe no/where.yaml"),
        (["validate", "x.yaml", "ipo"], "'ipo' belongs to no flag"),
        (["help", "rn"], "There is no verb 'rn': did you mean run?"),
        (["validate", "--bf16", "x.yaml"], "The recipe comes first: `trl-ext validate x.yaml --bf16`."),
        (["doctor", "--beta", "1"], "The recipe comes first: `trl-ext doctor RECIPE --beta 1`."),
        (
            ["compare", "--eval_size", "20", "x.yaml"],
            "The recipe comes first: `trl-ext compare x.yaml --eval_size 20`.",
        ),
        (["data", "x.yaml", "--rows"], "`--rows` has no value: write `--rows ROWS`."),
        (["data", "x.yaml", "--json=1"], "`--json` takes no value."),
        (["merge", "runs/a"], "The following arguments are required: --output."),
        (["merge", "runs/a", "--output", "b", "--dtype", "bf16"], "`--dtype` is 'bf16': "),
        (["losses", "--jsn"], "There is no flag `--jsn`: did you mean `--json`?"),
    ],
)
def test_bad_usage(words, sentence, capsys):
    assert cli.main(words) == 2
    caught = capsys.readouterr()
    assert sentence in caught.err and caught.out == ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-h"],
        ["--help"],
        ["help"],
        ["run", "-h"],
        ["help", "run"],
        ["validate", "x.yaml", "--help"],
        ["merge", "x", "--output", "-h"],
        ["eval", "x", "--limit", "many", "--help"],
    ],
)
def test_help(words, capsys):
    assert cli.main(words) == 0
    verb = next((word for word in words if word in cli.VERBS), "VERB")
    assert capsys.readouterr().out.startswith(f"usage: trl-ext {verb}")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_fits_eighty_columns_but_for_examples(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["help", verb]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith(("  trl-ext", "  accelerate")))
    assert any(line.startswith("exit code: 0") for line in lines)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_names_the_defaults_that_are_parsed(verb):
    """Parsed defaults stand in the help, and every flag with a value has a metavar."""
    for action in cli.parsers()[1][verb]._actions:
        if action.default not in (None, False, argparse.SUPPRESS):
            value = f"{action.default:g}" if isinstance(action.default, float) else action.default
            assert f"(default: {value})" in action.help
        if action.option_strings and action.nargs != 0 and action.dest != "resume_changed":
            assert action.metavar


@pytest.mark.parametrize(
    ("word", "verb"),
    [
        ("train", "run"),
        ("finetune", "run"),
        ("fit", "run"),
        ("evaluate", "eval"),
        ("test", "eval"),
        ("quantize", "export"),
        ("trian", "run"),
    ],
)
def test_words_of_other_programs(word, verb, capsys):
    assert word not in cli.VERBS and cli.main([word, "x.yaml"]) == 2
    assert f"did you mean {verb}?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["version"]])
def test_version(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"trl-ext {trl_ext.__version__}\n"


def test_run_hands_over_the_recipe_and_the_flags(monkeypatch):
    seen = []
    stand_in = types.SimpleNamespace(main=lambda *given, **more: seen.append((*given, more)) or 7)
    monkeypatch.setitem(sys.modules, "trl_ext.runs.run", stand_in)
    monkeypatch.setattr("trl_ext.runs.run", stand_in, raising=False)
    assert cli.main(["run", "x.yaml", "--loss", "ipo", "--force", "--bf16"]) == 7
    assert [given[:3] for given in seen] == [("x.yaml", {"loss": "ipo", "bf16": True}, True)]


def test_errors_are_wrapped_in_terminals_only(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    words = ["validate", "x.yaml", "a_word_that_belongs_to_no_flag", "another-word"]
    assert cli.main(words) == 2
    whole = capsys.readouterr().err.splitlines()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    assert cli.main(words) == 2
    lines = screen.getvalue().splitlines()
    assert len(whole) == 3 and len(lines) > 3
    assert max(map(len, lines)) <= 40 and all(line.startswith("  ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(whole).split())


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("run", ("--loss", "--output_dir", "--resume_from_checkpoint", "--resume_changed", "--force")),
        ("data", ("--rows", "--output", "--json")),
    ],
)
def test_help_names_every_flag(verb, flags, capsys):
    assert cli.main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: trl-ext {verb} RECIPE [--key value ...]")
    assert all(f"\n  {flag}" in printed for flag in flags)


def test_numbers_that_are_none_are_told_what_is_allowed(capsys):
    assert cli.main(["eval", "runs/none", "--limit", "many"]) == 2
    assert capsys.readouterr().err == "trl-ext: `--limit` is 'many': give a whole number of at least 1.\n"


@pytest.mark.parametrize(
    "words",
    [
        ["data", "{}", "--output", "{}/x"],
        ["merge", "none", "--output", "{}/x"],
        ["compare", "{}", "--output_dir", "{}/x"],
    ],
)
def test_a_file_in_the_way_of_what_is_written(words, recipe, capsys):
    path = recipe(GOOD)
    assert cli.main([word.format(path) for word in words]) == 2
    assert f"{path} is a file: name a folder, which need not exist yet." in capsys.readouterr().err


def test_merging_into_what_cannot_be_written_to(capsys):
    assert cli.main(["merge", "none", "--output", "/proc/x"]) == 2
    assert "`--output` is /proc/x, and /proc cannot be written to" in capsys.readouterr().err
