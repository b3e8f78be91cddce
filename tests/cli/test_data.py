"""`trl-ext data`, and the same findings before a run: in process, on the embedded model's tokenizer."""

import json

import datasets
import pytest
import yaml

from trl_ext.cli import main

PNG = b"\x89PNG"


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def pair(prompt, chosen, rejected):
    return {"prompt": user(prompt), "chosen": assistant(chosen), "rejected": assistant(rejected)}


LONG = "word " * 40
ROWS = [
    {"prompt": None, "chosen": None, "rejected": None},
    pair("what film?", "a great film", "a dull film"),
    pair(LONG, "kept out", "by its prompt"),
    pair("q", LONG + "one", LONG + "two"),
    pair("q", "same", "same"),
    pair("what film?", "a great film", "a dull film"),
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes rows and a recipe on them; returns the recipe's path. The working directory is fresh."""
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()

    def write(rows=ROWS, **changes):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {"model_name_or_path": "embedded", "dataset_name": "rows.jsonl", "max_length": 32}
        settings |= {"per_device_train_batch_size": 2, **changes}
        settings = {key: value for key, value in settings.items() if value is not None}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
        return "small.yaml"

    return write


def facts(capsys, *words):
    assert main(["data", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows_of(found):
    """{finding: [row numbers of its examples]}"""
    return {shown["name"]: [example["row"] for example in shown["examples"]] for shown in found["found"]}


def test_everything_is_said_with_rows_of_the_file(recipe, tmp_path, capsys):
    assert main(["data", recipe()]) == 0
    printed = capsys.readouterr().out
    for line in (
        "1 of 6 rows dropped: a required value is missing (null) (first: row 0).",
        "1 pair (20.0%) dropped: the prompt alone has 32 tokens (`max_length`) or more.",
        "1 pair (25.0%): chosen and rejected differ only beyond the cut at `max_length`, so they teach no preference.",
        "1 pair (25.0%): chosen and rejected have the same tokens, so they teach no preference.",
        "1 pair (25.0%): the tokens are identical to those of an earlier row.",
        "1 pair (25.0%): the cut removes the end-of-sequence token of a completion",
        "row 5: prompt 'what film?' | chosen 'a great film' | rejected 'a dull film'",
        "The rows are of more than one kind:",
        "1 pair: chosen and rejected are identical, so they teach no preference.",
        "5 rows (83.3%): pair, TRL's own columns, messages.",
        "1 row (16.7%): not recognised.",
        "Row 1 as the trainer sees it",
        "<|user|>what film?<|end|><|assistant|>",
        "⟦a great film<|end|>⟧",
        "⟦a dull film<|end|>⟧",
        "picture  runs/small-data/data.png",
    ):
        assert line in printed
    assert (tmp_path / "runs" / "small-data" / "data.png").read_bytes().startswith(PNG)


def test_what_becomes_of_plain_text_is_said_as_a_run_says_it(recipe, capsys):
    rows = [{"prompt": "q", "chosen": " yes", "rejected": ""}, {"prompt": "q", "chosen": "", "rejected": " no"}]
    said = facts(capsys, recipe(rows))["statements"]
    assert any("Chat template: applied. Plain text prompts become user turns" in line for line in said)
    assert "1 pair: the chosen completion is empty, which teaches the model to generate nothing." in said
    assert main(["data", recipe(rows)]) == 0
    assert "(`apply_chat_template: auto`)" in " ".join(capsys.readouterr().out.split())
    assert main(["validate", "small.yaml"]) == 0
    assert "chat template applied. Plain text prompts become user turns" in " ".join(capsys.readouterr().out.split())


def test_an_empty_answer_is_an_end_token_alone(recipe, capsys):
    path = recipe([{"prompt": "q", "chosen": "", "rejected": " no"}])
    [learned] = [part for part in facts(capsys, path)["example"]["sequences"]["chosen"] if part["role"] == "learned"]
    assert (learned["text"], learned["tokens"]) == ("<|end|>", 1)


def test_json_is_all_there_is(recipe, tmp_path, capsys):
    found = facts(capsys, recipe(), "--output", "here")
    assert rows_of(found) == {
        "dropped": [2], "chosen_cut": [3], "rejected_cut": [3], "eos_lost": [3], "identical_cut": [3], "identical": [4],
        "duplicate": [5],
    }  # fmt: skip
    assert (found["examples"], found["kept"], found["max_length"]) == (5, 4, 32)
    assert found["layout"]["examples"] == 4 and found["layout"]["here"] < found["layout"]["trl"]
    assert found["picture"] == "here/data.png" and (tmp_path / "here" / "data.png").exists()
    chosen = found["example"]["sequences"]["chosen"]
    assert [part["role"] for part in chosen] == ["prompt", "learned"] and found["example"]["row"] == 1


def test_pairs_as_single_answers_keep_their_rows(recipe, capsys):
    found = facts(capsys, recipe(), "--loss", "kto")
    assert rows_of(found)["dropped"] == [2, 2] and rows_of(found)["duplicate"] == [5, 5]
    assert rows_of(found)["contradictory"] == [3, 3, 4]  # cut to the same answer, or the same from the start
    assert found["labels"] == {"desirable": 4, "undesirable": 4}


def test_rows_held_out_or_beyond_the_first_are_not_counted(recipe, capsys):
    found = facts(capsys, recipe(), "--max_train_samples", "3")
    assert found["examples"] == 3 and rows_of(found)["dropped"] == [2] and "duplicate" not in rows_of(found)
    found = facts(capsys, recipe(), "--rows", "3")
    assert found["examples"] == 2 and found["partial"] == "Only the first 3 of 6 rows are read (`--rows`)."
    split = {"eval_size": 2, "eval_strategy": "steps", "eval_steps": 1}
    found = facts(capsys, recipe(rows=[pair(f"q{i}", LONG, f"no {i}") for i in range(9)], **split))
    numbers = [number for shown in found["found"] if shown["name"] == "chosen_cut" for number in [shown["rows"]]]
    assert numbers == [7]
    row = found["found"][0]["examples"][0]
    assert f"prompt 'q{row['row']}'" in row["excerpt"]  # the number is the row's, after shuffling too


def test_no_prompt_is_on_both_sides_of_a_held_out_split(recipe, capsys):
    rows = [pair(f"q{i % 4}", f"yes {i}", f"no {i}") for i in range(12)]
    found = facts(capsys, recipe(rows=rows, eval_size=3, eval_strategy="steps", eval_steps=1))
    assert found["statements"][0].endswith(
        "3 rows held out for evaluation; their prompts are not in the training data."
    )
    assert found["examples"] == 9


def test_rows_to_evaluate_on_that_are_trained_on_are_told(recipe, capsys, tmp_path):
    folder = tmp_path / "splits"
    folder.mkdir()
    rows = [pair(f"q{i}", f"yes {i}", f"no {i}") for i in range(6)]
    splits = {"train": rows, "test": [rows[0], rows[3], pair("q5", "other", "no"), pair("new", "yes", "no")]}
    for name, content in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    path = recipe(dataset_name=str(folder), eval_strategy="steps", eval_steps=1)
    said = (
        "3 of 4 rows for evaluation overlap with the training data (2 identical, 1 with the same prompt and other completions): "
        "they measure memorization, not generalization."
    )
    assert said in facts(capsys, path)["statements"]


def test_a_stream_is_looked_at_in_part(recipe, capsys):
    found = facts(capsys, recipe(), "--dataset_streaming", "true", "--max_steps", "3", "--rows", "4")
    assert found["examples"] == 3 and rows_of(found)["dropped"] == [2]
    assert found["partial"] == "Only the first 4 rows of the stream rows.jsonl are read."


def test_prompts_and_demonstrations_and_reward_models(recipe, capsys):
    sampling = {"trainer": "ppo", "reward_funcs": ["sentiment"], "max_completion_length": 5000, "use_peft": True}
    found = facts(capsys, recipe(**sampling, max_length=None, per_device_train_batch_size=4))
    assert (found["kind"], found["examples"]) == ("prompts", 5)
    assert rows_of(found)["beyond_context"] and "plus 5,000 sampled tokens" in str(found["found"])
    found = facts(capsys, recipe(trainer="sft"))
    assert (found["kind"], found["kept"]) == ("sft", 4) and rows_of(found)["dropped"] == [2]
    found = facts(capsys, recipe(trainer="reward"))
    assert (found["kind"], found["kept"]) == ("reward", 3) and rows_of(found)["dropped"] == [2, 3]


def test_a_mixture(recipe, capsys):
    path = recipe(datasets=[{"path": "json", "data_files": ["rows.jsonl"]}] * 2, dataset_name=None)
    assert facts(capsys, path)["examples"] == 10


REFUSED = {
    "all dropped": ([pair(LONG, "a", "b")] * 2, {}, "Every training example was dropped: every prompt has 32 tokens"),
    "same after the cut": (
        [pair("q", LONG + "one", LONG + "two")] * 2,
        {},
        "identical in all 2 pairs once they are cut",
    ),
    "same": ([pair("q", "a", "a")] * 2, {}, "chosen and rejected are identical in all 2 pairs"),
    "one label after the cut": (
        [
            {"prompt": user("q"), "completion": assistant("a"), "label": True},
            {"prompt": user(LONG), "completion": assistant("a"), "label": False},
        ],
        {"loss": "kto"},
        "After prompts of 32 tokens or more (`max_length`) were dropped, the only completion is desirable",
    ),
    "refused by the template": (
        [pair("q", "a", "b"), {**pair("q", "a", "b"), "tools": "no JSON"}],
        {},
        "Row 1 of the training data cannot be tokenised",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_teach_is_refused_before_weights_are_loaded(case, recipe, capsys, monkeypatch):
    rows, changes, message = REFUSED[case]
    path = recipe(rows, **changes)

    def load_weights(*_, **__):
        raise AssertionError("weights are being loaded")

    monkeypatch.setattr("trl_ext.build.trainer.load_policy", load_weights)
    for verb in ("run", "data"):
        assert main([verb, path]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1


def test_a_run_says_it_in_a_few_lines(recipe, capsys, monkeypatch):
    class Loading(Exception):
        pass

    def load_weights(recipe, args, chosen, statements, *_):
        raise Loading(statements)

    monkeypatch.setattr("trl_ext.build.trainer.load_policy", load_weights)
    with pytest.raises(Loading) as reached:
        main(["run", recipe()])
    said = reached.value.args[0]
    assert any(line.startswith("Tokens (median / 95 % / longest): prompt ") for line in said)
    assert any(line.startswith("1 of 5 training examples is dropped") for line in said)
    counts = next(line for line in said if line.startswith("Among 4 pairs at `max_length` 32: "))
    assert "1 with completions that differ only beyond the cut, which teach no preference" in counts

    with pytest.raises(Loading) as reached:  # of a longer stream it is only said: its beginning may mislead
        main(["run", recipe(REFUSED["same"][0] * 150), "--dataset_streaming", "true", "--max_steps", "1"])
    assert any(
        "first 256 rows of the stream" in line and "identical in all 256" in line for line in reached.value.args[0]
    )


def test_wrong_input(recipe, capsys):
    assert main(["data", recipe(), "--rows", "none"]) == 2
    assert "`--rows` is 'none': give a whole number of at least 1" in capsys.readouterr().err
    assert main(["data", recipe(eval_size=9, eval_strategy="steps", eval_steps=1)]) == 2
    assert (
        "`eval_size` is 9, but the training split has only 5 rows. Give a smaller number." in capsys.readouterr().err
    )
