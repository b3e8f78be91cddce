"""The command line: what is printed, the exit code, and what is not imported."""

import argparse
import io
import json
import math
import subprocess
import sys
import types

import pytest
from rich.cells import cell_len

import trl_ext
from trl_ext import cli, losses
from trl_ext.cli.parser import Parser
from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.support.errors import UserError
from trl_ext.support.messages import plain

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


def keys(words: list[str]) -> dict:
    """Keys of a recipe from the words after it."""
    parser = Parser(prog="trl-ext run")
    add_recipe(parser)
    return parser.parse(["x.yaml", *words]).recipe_keys


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


def test_losses_fits_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["losses"]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 80
    for name in losses.available():
        info = losses.describe(name)
        assert name in printed and info.paper.removeprefix("arXiv:") in printed
        assert all(alias in printed for alias in info.aliases)


def test_losses_cut_nothing_however_narrow_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert cli.main(["losses"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed and all(losses.describe(name).paper[-10:] in printed for name in losses.available())


def test_losses_in_a_wide_terminal_have_one_line_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    assert cli.main(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in losses.available():
        info = losses.describe(name)
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert info.formula in line and all(key in line for key in info.hyperparameters)


def test_losses_as_json(capsys):
    assert cli.main(["losses", "--json"]) == 0
    read = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert tuple(read) == losses.available()
    assert read["dpo"]["needs_reference"] is True and read["dpo"]["hyperparameters"]["beta"] == 0.1
    assert read["simpo"]["needs_reference"] is False and read["kto"]["data"] == "single"


@pytest.mark.parametrize("name", losses.available())
def test_one_loss(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["losses", name]) == 0
    printed = capsys.readouterr().out
    info, value = losses.describe(name), losses.get(name).initial_value
    for part in (info.summary, info.formula, info.reduction, info.beta_unit, *info.inputs, *info.aliases):
        assert part in printed
    assert f"https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')}" in printed
    assert "it depends on the data" in printed if value is None else f"{value:.4g} with the defaults" in printed
    for key, default in info.hyperparameters.items():
        (line,) = [line for line in printed.splitlines() if line.split()[:1] == [key]]
        assert plain("none" if default is None else default) in line and cli.losses.MEANINGS[key] in line


def test_one_loss_as_json(capsys):
    assert cli.main(["losses", "sigmoid", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "dpo" and found["initial_value"] == pytest.approx(math.log(2))
    assert found["hyperparameters"]["beta"] == 0.1 and found["allowed"]["beta"] == "a number greater than 0"


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


@pytest.mark.parametrize(
    "words",
    [
        ["--losses", "dpo,ipo", "x.yaml", "--max_steps", "3"],
        ["x.yaml", "--losses", "dpo,ipo", "--max_steps", "3"],
        ["x.yaml", "--max_steps", "3", "--losses", "dpo,ipo"],
        ["x.yaml", "--max-steps=3", "--losses=dpo,ipo"],
    ],
)
def test_flags_of_a_verb_may_stand_anywhere(words):
    args = cli.parsers()[1]["compare"].parse(words)
    assert (args.what, args.losses, args.recipe_keys) == (["x.yaml"], "dpo,ipo", {"max_steps": 3})
    assert args.limit == 2000


@pytest.mark.parametrize(
    ("words", "losses"),
    [
        (["--losses", "dpo", "ipo"], ["dpo", "ipo"]),
        (["--betas", "{dpo:", "[0.1,", "0.3]}"], None),
    ],
)
def test_lists_and_mappings_of_a_verbs_own_flags(words, losses):
    args = cli.parsers()[1]["compare"].parse(["x.yaml", *words])
    assert args.losses == losses and args.betas == (None if losses else {"dpo": [0.1, 0.3]})


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


def test_ctrl_c(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.validate, "run", interrupted)
    assert cli.main(["validate", "x.yaml"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_sigterm_ends_a_command_as_ctrl_c_does():
    code = """
import signal, sys, time
from trl_ext import cli
def wait(args):
    try:
        print("ready", flush=True)
        time.sleep(900)
    finally:
        print("cleaned", flush=True)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
cli.validate.run = wait
sys.argv = ["trl-ext", "validate", "x.yaml"]
sys.exit(cli.main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=300) == ("cleaned\n", "\ntrl-ext: interrupted.\n")
    assert process.returncode == 130


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def broken(args):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.validate, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["validate", "x.yaml"])


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--loss", "ipo"], {"loss": "ipo"}),
        (["--learning_rate=5e-6"], {"learning_rate": 5e-6}),
        (["--learning-rate", "5E-6"], {"learning_rate": 5e-6}),
        (["--bf16"], {"bf16": True}),
        (["--bf16", "--beta", "0.1"], {"bf16": True, "beta": 0.1}),
        (["--bf16", "false"], {"bf16": False}),
        (["--max_steps", "-1"], {"max_steps": -1}),
        (["--learning_rate", "-1e-5"], {"learning_rate": -1e-5}),
        (["--no_bf16"], {"no_bf16": True}),
        (["--run_name="], {"run_name": None}),
        (["--max_length", "null"], {"max_length": None}),
        (["--lora_target_modules", "q_proj", "v_proj"], {"lora_target_modules": ["q_proj", "v_proj"]}),
        (["--lora_target_modules", "[q_proj, v_proj]"], {"lora_target_modules": ["q_proj", "v_proj"]}),
        (["--loss", "{dpo: 1, sft: 0.1}"], {"loss": {"dpo": 1, "sft": 0.1}}),
        (["--loss", "{dpo:", "1,", "sft:", "0.1}"], {"loss": {"dpo": 1, "sft": 0.1}}),
        (["--run_name", "[unclosed"], {"run_name": "[unclosed"}),
        (["--run_name=a=b"], {"run_name": "a=b"}),
        (["--beta", "1", "--beta", "2"], {"beta": 2}),
    ],
)
def test_flags(words, values):
    assert keys(words) == values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-loss", "ipo"], ["A flag begins with two dashes: `--loss`, not '-loss'."]),
        (["loss=ipo"], ["A flag begins with two dashes: `--loss=ipo`, not 'loss=ipo'."]),
    ],
)
def test_dashes_that_are_missing(words, said):
    with pytest.raises(UserError) as caught:
        keys(words)
    assert caught.value.problems == said


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


@pytest.mark.parametrize(
    ("word", "missing"),
    [
        ("--learning_rate", "a number"),
        ("--learning-rate", "a number"),
        ("--beta", "a number greater than 0"),
        ("--loss", "one"),
        ("--max_steps", "a whole number"),
    ],
)
def test_a_flag_without_its_value(word, missing):
    with pytest.raises(UserError) as caught:
        keys([word, "--bf16"])
    assert caught.value.problems == [f"`{word.replace('-r', '_r')}` has no value: give {missing}."]


@pytest.mark.parametrize("word", ["--average", "--resume_from_checkpoint", "--force", "--packing", "--rows"])
def test_flags_that_mean_something_alone(word):
    assert keys([word]) == {word[2:]: True}


def test_stray_words_are_all_named():
    with pytest.raises(UserError) as caught:
        keys(["x", "--beta", "1", "-b", "--", "y"])
    assert [problem.split()[0] for problem in caught.value.problems] == ["'x'", "'-b'", "'--'", "'y'"]
