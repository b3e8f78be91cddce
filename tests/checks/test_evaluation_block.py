"""What cannot work in the block `evaluation` is refused with the recipe, by sentences that name the entry and its line."""

import json

import pytest

from tests.model_files.test_reward import make
from tests.recipe.helpers import PPO, RATE, load, problem, problems, write
from trl_ext import recipe
from trl_ext.checks import packages
from trl_ext.support.errors import UserError

TRAINED = "loss: dpo\nuse_peft: true\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(folder, *lines: str) -> str:
    return problem(folder, TRAINED + "evaluation:\n" + "".join(f"  {line}\n" for line in lines))


def model(folder, architecture="LlamaForCausalLM", **tokenizer):
    """A folder with the files of a model, and no weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": "llama"}))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_block_that_can_work(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "judge.txt").write_text("{prompt} {first} {second} [[FIRST]] [[SECOND]]")
    text = (
        "evaluation: {judge: [sentiment, api], judge_model: m, judge_base_url: 'http://localhost:1/v1', judge_template: judge.txt, "
        "prompts: prompts.jsonl, samples: 8, max_new_tokens: 16, temperature: 0.5, seed: -1}\n"
    )
    read = load(tmp_path, TRAINED + text, **RATE)
    assert read.notes == [] and len(read.evaluation) == 9


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("judge: sentimant", "is sentimant, which is not a judge. Did you mean sentiment?"),
        ("judge: ''", "is empty. Name a judge, or remove it."),
        ("judge: []", "is empty. Name a judge, or remove it."),
        ("judge: [sentiment, embedded, api]", "names 3 judges. Name one, or two for their agreement."),
        ("judge: [sentiment, sentiment]", "names a judge twice."),
        ("judge: ./nowhere", "is ./nowhere, and there is no such folder."),
        ("judge: api", "is api, which needs the name of a model. Set `judge_model`"),
        ("judge: rewards.py:f", "is rewards.py:f, and that file does not exist: check the path."),
    ],
)
def test_judges(line, sentence, tmp_path):
    found = problems(tmp_path, f"{TRAINED}evaluation:\n  {line}\n")
    assert found[0].startswith(f"`evaluation.judge` (line 6) {sentence}")


def test_a_judge_without_a_chat_template(tmp_path):
    model(tmp_path / "plain")
    model(tmp_path / "chat", chat_template="{{ messages }}")
    assert said(tmp_path, "judge: ./plain").startswith(
        "`evaluation.judge` (line 6) is ./plain, which has no chat template,"
    )
    assert load(tmp_path, f"{TRAINED}evaluation: {{judge: ./chat}}\n").evaluation == {"judge": "./chat"}


def test_a_reward_adapter_on_another_base(tmp_path):
    make(tmp_path / "rm", base_model_name_or_path="org/other")
    assert "trained on org/other, but the policy's base is" in said(tmp_path, "judge: ./rm")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["judge_model: m"], "`evaluation.judge_model` (line 6) needs a judge. Add `evaluation.judge`, or remove it."),
        (
            ["prompts: p.jsonl", "temperature: 1"],
            "`evaluation.prompts` (line 6) and `evaluation.temperature` (line 7) need a judge. Add `evaluation.judge`, or remove them.",
        ),
        (["num_fewshot: 1"], "`evaluation.num_fewshot` (line 6) needs tasks. Add `evaluation.tasks`, or remove it."),
        (
            ["judge: sentiment", "limit: 5"],
            "`evaluation.limit` (line 7) has no effect with `judge`. A judge reads as many prompts as `samples` says. Remove it.",
        ),
        (
            ["judge: sentiment", "reward_funcs: sentiment"],
            "`evaluation.reward_funcs` (line 7) has no effect with `judge`. Remove it.",
        ),
        (
            ["judge: sentiment", "judge_model: m", "judge_timeout: 3"],
            "`evaluation.judge_model` (line 7) and `evaluation.judge_timeout` (line 8) need a judge behind an API, but "
            "`evaluation.judge` (line 6) is sentiment. Remove them.",
        ),
        (
            ["judge: sentiment", "judge_load_in_4bit: true"],
            "`evaluation.judge_load_in_4bit` (line 7) needs a judge that is loaded from a folder or the Hub, but `evaluation.judge` "
            "(line 6) is sentiment. Remove it.",
        ),
        (
            ["judge: sentiment", "samples: 0"],
            "`evaluation.samples` (line 7) is 0, but a judge needs answers. Remove it, or give the number of prompts.",
        ),
        (["samples: -1"], "`evaluation.samples` (line 6) is -1: give a whole number of at least 0."),
        (["limit: 0"], "`evaluation.limit` (line 6) is 0: give a whole number of at least 1."),
        (["max_new_tokens: 0"], "`evaluation.max_new_tokens` (line 6) is 0: give a whole number of at least 1."),
        (
            ["judge: sentiment", "temperature: .inf"],
            "`evaluation.temperature` (line 7) is inf: give a number of at least 0.",
        ),
    ],
    ids=str,
)
def test_settings_without_use_and_numbers_out_of_range(lines, sentence, tmp_path):
    assert said(tmp_path, *lines) == sentence


def test_settings_of_an_api(tmp_path):
    found = problems(
        tmp_path,
        f"{TRAINED}evaluation:\n  judge: api\n  judge_model: m\n  judge_base_url: https://me:sk-77@host/v1\n  judge_timeout: 0\n"
        "  judge_concurrency: 0\n  judge_temperature: -1\n",
    )
    assert [sentence.split(" (")[0] for sentence in found] == [
        f"`evaluation.judge_{name}`" for name in ("base_url", "timeout", "concurrency", "temperature")
    ]
    assert "must not hold a key" in found[0] and "sk-77" not in "".join(found)


def test_two_judges_read_their_own_settings(tmp_path):
    text = f"{TRAINED}evaluation: {{judge: [sentiment, 'api:m'], judge_concurrency: 2}}\n"
    assert load(tmp_path, text).evaluation["judge_concurrency"] == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is p.jsonl, and "),
        ("", "is p.jsonl, which cannot be read: it is empty (0 bytes)."),
        (
            '{"prompt": ""}\n{"prompt": " "}\n',
            "is p.jsonl, which has no prompts: the column `prompt` is empty in every row.",
        ),
        ('{"topic": "a", "id": 1}\n', "is p.jsonl, which has no prompts: its columns are `topic` and `id`."),
    ],
)
def test_files_without_prompts(content, sentence, tmp_path):
    if content is not None:
        (tmp_path / "p.jsonl").write_text(content)
    assert said(tmp_path, "judge: sentiment", "prompts: p.jsonl").startswith(
        f"`evaluation.prompts` (line 7) {sentence}"
    )


@pytest.mark.parametrize(
    "content",
    [
        '{"prompt": ""}\n{"prompt": "a"}\n',
        '{"prompt": [{"role": "user", "content": "a"}]}\n',
        '{"instruction": "a", "input": "", "output": "b"}\n',
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": true}\n',
    ],
)
def test_files_with_prompts(content, tmp_path):
    (tmp_path / "p.jsonl").write_text(content)
    text = f"{TRAINED}evaluation: {{judge: sentiment, prompts: p.jsonl}}\n"
    assert load(tmp_path, text).evaluation["prompts"] == "p.jsonl"


def test_the_column_of_the_prompts_can_be_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"what": "a", "id": 1}\n')
    columns = "dataset_columns: {prompt: what}"
    assert load(tmp_path, f"{TRAINED}evaluation: {{judge: sentiment, prompts: p.jsonl, {columns}}}\n")
    (tmp_path / "p.jsonl").write_text('{"other": "a", "id": 1}\n')
    assert "what" in said(tmp_path, "judge: sentiment", "prompts: p.jsonl", columns)


def test_a_template(tmp_path):
    (tmp_path / "t.txt").write_text("{prompt} {first}")
    lines = ("judge: 'api:m'", "judge_template: t.txt")
    assert "which lacks {second}." in said(tmp_path, *lines)
    (tmp_path / "t.txt").write_text("{prompt} {first} {second}")
    assert "which does not ask for [[FIRST]] and [[SECOND]]." in said(tmp_path, *lines)
    assert load(tmp_path, f"{TRAINED}evaluation: {{judge: embedded, judge_template: t.txt}}\n")  # asks for letters


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("''", "is ''. Give names of tasks"),
        ("./absent", "names ./absent, and "),
        ("own.yml", "names own.yml, which is no task file: the harness reads files that end in .yaml."),
        ("./empty", "names the folder ./empty, in which no file ends in .yaml."),
    ],
)
def test_tasks(given, sentence, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "own.yml").write_text("task: t\n")
    assert said(tmp_path, f"tasks: {given}").startswith(f"`evaluation.tasks` (line 6) {sentence}")


def test_reward_functions_of_samples(tmp_path):
    assert "which is not a reward function: did you mean sentiment?" in said(tmp_path, "reward_funcs: sentimant")
    assert "Samples are scored with functions only" in said(tmp_path, "reward_funcs: org/name")


def test_a_reward_model_writes_nothing(tmp_path):
    text = "trainer: reward\nuse_peft: true\nevaluation: {judge: sentiment, samples: -3}\n"
    assert problem(tmp_path, text).startswith(
        "`evaluation` (line 5) compares what a model writes with what its base writes, and"
    )
    assert load(tmp_path, "trainer: reward\nuse_peft: true\nevaluation: false\n").evaluation is None


def test_rows_held_out_without_preferences(tmp_path):
    base = f"{PPO}eval_size: 10\n"
    assert "Name a judge (`evaluation.judge`), tasks" in problem(tmp_path, "evaluation: true\n", base)
    for text in ("evaluation: {judge: sentiment}\n", "evaluation: {dataset: embedded, split: test}\n"):
        assert recipe.load(write(tmp_path, text, base)).evaluation


def test_what_is_misspelled_is_not_missing_too(tmp_path):
    lines = ("jugde: api", "judge_model: m", "prompts: p.jsonl")
    assert said(tmp_path, *lines) == (
        "`evaluation.jugde` (line 6) is not a setting of an evaluation: did you mean `judge`?"
    )


def test_a_key_in_env(tmp_path):
    found = problem(tmp_path, f"{TRAINED}env: {{OPENAI_API_KEY: sk-1234}}\n")
    assert found.startswith("`env` (line 5) sets OPENAI_API_KEY.") and "1234" not in found


def test_packages_are_asked_for_where_a_recipe_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda name: False)
    path = write(tmp_path, f"{TRAINED}evaluation: {{judge: 'api:m', tasks: arc_easy}}\n")
    assert recipe.load(path).evaluation
    with pytest.raises(UserError) as caught:
        recipe.load(path, to_train=True)
    assert [sentence.partition("Run ")[2] for sentence in caught.value.problems] == [
        "`pip install openai`, or remove the judge.",
        "`pip install lm-eval`, or remove the tasks.",
    ]


def test_code_that_will_run_is_named(tmp_path):
    (tmp_path / "rewards.py").write_text("def short(completions, **kwargs):\n    return []\n")
    read = load(tmp_path, f"{TRAINED}evaluation: {{judge: rewards.py:short}}\n", **RATE)
    assert read.notes == ["Evaluation: short in rewards.py. This runs the code of that file or module."]
