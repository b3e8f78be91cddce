"""Flags for one entry of a mapping change that entry and leave the others as they are."""

from tests.recipe.helpers import load, problem, problems


def test_an_entry_replaces_that_of_the_file(tmp_path):
    text = "loss: dpo\nenv: {A: 1, B: 2}\ndataset_columns: {prompt: q, chosen: good}\n"
    read = load(tmp_path, text, **{"env.B": 3, "env.C": 4, "dataset_columns.chosen": "best"})
    assert read.get("env") == {"A": 1, "B": 3, "C": 4}
    assert read.get("dataset_columns") == {"prompt": "q", "chosen": "best"}


def test_an_entry_without_a_mapping_makes_one(tmp_path):
    assert load(tmp_path, "loss: dpo\n", **{"env.A": 1}).get("env") == {"A": 1}


def test_a_mapping_replaces_the_file_s_and_entries_come_on_top(tmp_path):
    read = load(tmp_path, "loss: dpo\nenv: {A: 1, B: 2}\n", env={"B": 5}, **{"env.C": 4})
    assert read.get("env") == {"B": 5, "C": 4}


def test_an_entry_of_the_variant_that_is_chosen(tmp_path):
    text = "env: {A: 1}\nvariants: {ipo: {env: {A: 2, B: 2}}}\n"
    assert load(tmp_path, text, loss="ipo", **{"env.A": 3}).get("env") == {"A": 3, "B": 2}


def test_entries_of_what_has_none(tmp_path):
    assert problems(tmp_path, "loss: dpo\n", **{"beta.x": 1, "variants.ipo": {}, "evn.A": 1, "zzzzzz.A": 1}) == [
        "`--beta.x` is an entry of `beta`, which has no entries that a flag can set. Write `--beta VALUE`.",
        "`--variants.ipo` is an entry of `variants`, which has no entries that a flag can set. Write `--variants VALUE`.",
        "`--evn.A` is not a setting: did you mean `--env.A`?",
        "`--zzzzzz.A` is not a setting: check its spelling, or remove it.",
    ]


def test_an_entry_beside_another_kind_of_value(tmp_path):
    (tmp_path / "fsdp.json").write_text("{}")
    said = problem(tmp_path, f"trainer: sft\nfsdp_config: {tmp_path}/fsdp.json\n", **{"fsdp_config.x": 1})
    assert said.startswith("`--fsdp_config.x` is an entry of a mapping, but `fsdp_config` (line 4) is '")


def test_the_flag_of_the_command_line(tmp_path, monkeypatch):
    from trl_ext.cli import parsers

    args = parsers()[1]["run"].parse(
        ["demo", "--evaluation.judge", "sentiment", "--env.A=1", "--evaluation.max-new-tokens", "8"]
    )
    assert args.recipe_keys == {"evaluation.judge": "sentiment", "env.A": 1, "evaluation.max_new_tokens": 8}


def test_a_command_that_is_written_down_reads_the_same(tmp_path):
    import shlex

    from trl_ext.cli import parsers
    from trl_ext.recipe.command import run_command

    keys = {"evaluation.judge": ["sentiment", "api"], "evaluation.limit": 5}
    words = shlex.split(run_command("demo", keys))[2:]
    assert parsers()[1]["run"].parse(words).recipe_keys == keys
