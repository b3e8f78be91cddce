"""`trl-ext pairs`: what is written, what is kept after an interrupt, and what is refused before anything is loaded."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests import finished_runs
from tests.judging.stub_server import MODEL, says, serving
from trl_ext.cli import main
from trl_ext.demo import grammar
from trl_ext.pairing import sample as sampling_room
from trl_ext.support.sampling import sample

N, PROMPTS = 3, 7
SHORT = ("--num_generations", str(N), "--max_new_tokens", "12", "--keep_truncated", "--batch_size", "6")


def pairs(small, output, *words, reward=("--reward_funcs", "sentiment"), limit=PROMPTS):
    return main(["pairs", str(small), *reward, *SHORT, "--limit", str(limit), "--output", str(output), *words])


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(folder: Path) -> dict[str, str]:
    """A digest of every file but the provenance, which has a date."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "provenance.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "pairs"


@pytest.fixture
def done(small_recipe, policy, whole):
    """The folder of a command that was not interrupted."""
    if not whole.exists():
        assert pairs(small_recipe, whole) == 0
    return whole


def test_the_data_is_the_best_and_the_worst_of_independent_samples(small_recipe, policy, done, capsys):
    (completions,) = (done / "kept").glob("completions-*")
    kept = {json.dumps(row["prompt"]): row["value"] for row in read_lines(completions)}
    assert len(kept) == PROMPTS
    expected = []
    tokenizer = policy.tokenizer()
    for row in read(Path(recipe_data()))[:PROMPTS]:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        # Another batch than the command's: completions depend on the seed and on their number among those of the prompt.
        found = sample(policy.load(), tokenizer, [ids] * N, seed=0, max_new_tokens=12)
        assert [each[0] for each in kept[json.dumps(row["prompt"])]] == [each.text for each in found]
        rewards = [grammar.reward(each.text) for each in found]
        if max(rewards) > min(rewards):
            expected.append((max(rewards), min(rewards)))
    written = read(done / "train.jsonl")
    assert [(row["score_chosen"], row["score_rejected"]) for row in written] == expected
    for row in written:
        assert grammar.reward(row["chosen"][0]["content"]) == row["score_chosen"]
        assert grammar.reward(row["rejected"][0]["content"]) == row["score_rejected"]
    provenance = json.loads((done / "provenance.json").read_text())
    assert provenance["recipe"] == str(small_recipe) and provenance["adapter"] is None
    assert provenance["sampling"] == {"num_generations": N, "max_new_tokens": 12, "temperature": 1.0, "seed": 0}
    assert provenance["found"]["rows"] == len(written) and provenance["packages"]["torch"]


def recipe_data():
    from trl_ext import demo

    return demo.DATA / "train.jsonl"


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_the_data_is_read_and_trained_on(small_recipe, done, tmp_path, capsys):
    assert (
        main(["data", str(small_recipe), "--dataset_name", str(done), "--output", str(tmp_path / "picture"), "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    rows = len(read(done / "train.jsonl"))
    assert any(
        f"TRL's own columns, prompt/chosen/rejected as messages, kept as they are, {rows} pairs" in each
        for each in told["statements"]
    )
    words = ["--dataset_name", str(done), "--output_dir", str(tmp_path / "run"), "--per_device_train_batch_size", "2"]
    assert main(["run", str(small_recipe), *words]) == 0
    assert (tmp_path / "run" / "adapter_config.json").exists()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_command_continues_to_the_same_bytes(
    small_recipe, policy, done, sampled, tmp_path, monkeypatch, after
):
    output = tmp_path / "pairs"
    watched = sampling_room.sample

    def failing(*args, **settings):
        if len(sampled) == after:
            raise RuntimeError("stopped")
        return watched(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(sampling_room, "sample", failing)
        with pytest.raises(RuntimeError, match="stopped"):
            pairs(small_recipe, output)
    assert not (output / "train.jsonl").exists() and len(sampled) == after
    assert pairs(small_recipe, output) == 0
    assert content(output) == content(done)
    assert len(sampled) == 4  # seven prompts, two a batch: nothing was sampled twice


def test_a_torn_line_is_sampled_again(small_recipe, policy, done, sampled, tmp_path):
    output = tmp_path / "pairs"
    assert pairs(small_recipe, output) == 0
    (completions,), (scores,) = ([*(output / "kept").glob(f"{name}-*")] for name in ("completions", "scores"))
    completions.write_bytes(completions.read_bytes()[:-40])
    scores.unlink()
    (output / "provenance.json").unlink()
    sampled.clear()
    assert pairs(small_recipe, output) == 0
    assert (output / "train.jsonl").read_bytes() == (done / "train.jsonl").read_bytes() and len(sampled) == 1


def test_ctrl_c_keeps_what_was_sampled(small_recipe, policy, done, sampled, tmp_path, monkeypatch, capsys):
    output, watched = tmp_path / "pairs", sampling_room.sample

    def interrupting(*args, **settings):
        if len(sampled) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return watched(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(sampling_room, "sample", interrupting)
        assert pairs(small_recipe, output) == 130
    assert "Run the same command again to continue." in capsys.readouterr().err
    assert pairs(small_recipe, output) == 0
    assert "Kept from an earlier command: completions of 6 and scores of 4 prompts." in capsys.readouterr().out
    assert content(output) == content(done)


def test_a_second_command_samples_and_scores_nothing(small_recipe, policy, done, sampled, monkeypatch, capsys):
    monkeypatch.setattr(grammar, "reward", None)
    before = content(done)
    assert pairs(small_recipe, done) == 0 and not sampled and content(done) == before


def test_other_settings_are_refused_and_overwritten(small_recipe, policy, done, sampled, tmp_path, capsys):
    output = tmp_path / "pairs"
    assert pairs(small_recipe, output) == 0
    sampled.clear()
    assert pairs(small_recipe, output, "--margin", "0.4", "--temperature", "0.7") == 2
    assert capsys.readouterr().err == (
        f"trl-ext: {output} holds data that was made with other settings: `temperature` was 1.0 and is 0.7, `margin` was 0.0 and is "
        "0.4. Choose another `--output`, or add `--overwrite` to replace it.\n"
    )
    assert pairs(small_recipe, output, limit=3) == 2
    assert "there are other prompts." in capsys.readouterr().err
    # Completions and scores do not depend on the margin.
    assert pairs(small_recipe, output, "--margin", "0.4", "--overwrite") == 0 and not sampled
    assert all(row["score_chosen"] - row["score_rejected"] > 0.4 for row in read(output / "train.jsonl"))


def test_a_file_and_labels(small_recipe, policy, done, tmp_path, capsys):
    output = tmp_path / "kto.jsonl"
    assert pairs(small_recipe, output, "--labelled") == 0
    rows = read(output)
    assert {*rows[0]} == {"prompt", "completion", "label", "score"}
    for row in rows:
        assert row["score"] == grammar.reward(row["completion"][0]["content"])
    assert (tmp_path / "kto.provenance.json").exists()
    capsys.readouterr()
    assert (
        main(
            [
                "data",
                str(small_recipe),
                "--loss",
                "kto",
                "--dataset_name",
                str(output),
                "--output",
                str(tmp_path / "p"),
                "--json",
            ]
        )
        == 0
    )
    assert "prompt/completion/label as messages, kept as they are" in capsys.readouterr().out


def test_a_judge_compares_and_is_asked_once(small_recipe, policy, tmp_path, capsys):
    """A judge that prefers the longer completion: its best is the longest one, its worst the shortest."""

    def longer(body):
        text = body["messages"][-1]["content"]
        if "<<1>>" not in text:
            return says("yes")  # to the question whether the API answers
        first, second = text.split("<<1>>")[1], text.split("<<2>>")[1]
        return says(f"[[{'FIRST' if len(first) > len(second) else 'SECOND' if len(second) > len(first) else 'TIE'}]]")

    template = tmp_path / "template.txt"
    template.write_text("{prompt}\n<<1>>{first}<<1>>\n<<2>>{second}<<2>>\n[[FIRST]] [[SECOND]] [[TIE]]\n")
    output = tmp_path / "pairs"
    with serving(longer) as stub:
        judge = ("--judge", stub.url, "--judge_model", MODEL, "--judge_template", str(template))
        assert pairs(small_recipe, output, reward=judge) == 0
        asked = len(stub.asked)
        told = capsys.readouterr().out
        assert (
            f"judge-1 compares all 3 pairs of 3 completions per prompt in both orders: at most {2 * 3 * PROMPTS} questions."
            in told
        )
        assert 0 < asked <= 2 * 3 * PROMPTS
        (output / "provenance.json").unlink()
        next((output / "kept").glob("scores-*")).unlink()
        assert pairs(small_recipe, output, reward=judge) == 0
        assert len(stub.asked) == asked
    kept = {
        json.dumps(row["prompt"]): [each[0] for each in row["value"]]
        for row in read_lines(next((output / "kept").glob("completions-*")))
    }
    rows = read(output / "train.jsonl")
    assert rows and "Strength in log-odds: standard deviation within a prompt" in told
    for row in rows:
        texts = kept[json.dumps(row["prompt"])]
        assert len(row["chosen"][0]["content"]) == max(map(len, texts))
        assert len(row["rejected"][0]["content"]) == min(map(len, texts))


def test_an_adapter_is_sampled_from_with_a_reward_adapter(small_recipe, tmp_path, capsys):
    """The scores are those of the reward adapter alone, which shares the base with the run's adapter."""
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3)
    reward = reward_run(tmp_path / "reward")
    output = tmp_path / "pairs"
    words = ["--reward_adapter", str(reward), *SHORT, "--limit", "2", "--output", str(output)]
    assert main(["pairs", str(small_recipe), "--adapter", str(run), *words]) == 0
    provenance = json.loads((output / "provenance.json").read_text())
    assert provenance["adapter"] == str(run) and provenance["found"]["unscored"] == 0
    assert (
        main(["pairs", str(run), "--overwrite", *words]) == 0
    )  # the run in place of the recipe: the same completions
    assert [*(output / "kept").glob("completions-*")]
    # From the base, which has no adapter of its own.
    assert main(["pairs", str(small_recipe), *words[:-1], str(tmp_path / "base")]) == 0


def test_merged_weights_sample_the_same_completions(small_recipe, tmp_path, capsys):
    """In float32 on both sides, where merging changes the last digits alone."""
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3)
    kept = []
    for weights in ("adapter", "merged"):
        words = ["--reward_funcs", "sentiment", "--sampling_weights", weights, *SHORT, "--limit", "4"]
        assert (
            main(["pairs", str(small_recipe), "--adapter", str(run), *words, "--output", str(tmp_path / weights)]) == 0
        )
        kept.append(read_lines(next((tmp_path / weights / "kept").glob("completions-*"))))
    assert kept[0] == kept[1]
    assert (
        main(["pairs", str(small_recipe), "--adapter", str(run), *words, "--output", str(tmp_path / "adapter")]) == 2
    )
    assert "`sampling_weights` was adapter and is merged" in capsys.readouterr().err


def reward_run(directory: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from trl_ext import demo

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = AutoModelForSequenceClassification.from_pretrained(demo.MODEL, num_labels=1, dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(demo.MODEL).save_pretrained(directory)
    return directory


def test_no_pair_at_all(small_recipe, policy, tmp_path, capsys):
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def same(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    assert pairs(small_recipe, tmp_path / "pairs", reward=("--reward_funcs", str(rewards))) == 2
    error = capsys.readouterr().err
    assert f"None of {PROMPTS} prompts gives a pair: all scores are equal ({PROMPTS})." in error
    assert not (tmp_path / "pairs" / "train.jsonl").exists()
    # The reward function is corrected: nothing is sampled again, and its old scores are not used.
    rewards.write_text("def length(completions, **kwargs):\n    return [len(c[0]['content']) for c in completions]\n")
    words = ("--overwrite",)
    assert pairs(small_recipe, tmp_path / "pairs", *words, reward=("--reward_funcs", str(rewards))) == 0
    for row in read(tmp_path / "pairs" / "train.jsonl"):
        assert row["score_chosen"] == len(row["chosen"][0]["content"]) > row["score_rejected"]


def test_a_reward_function_that_raises_is_called_early(small_recipe, policy, sampled, tmp_path, capsys):
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def broken(completions, **kwargs):\n    return 1 / 0\n")
    assert pairs(small_recipe, tmp_path / "pairs", reward=("--reward_funcs", str(rewards))) == 2
    assert "The reward function broken failed on 12 completions with ZeroDivisionError" in capsys.readouterr().err
    assert len(sampled) == 2  # of four batches


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "There is no source of scores. Add `--reward_funcs`"),
        (
            ("--reward_funcs", "sentimen"),
            "`--reward_funcs` names sentimen, which is not a reward function: did you mean sentiment?",
        ),
        (("--reward_funcs", "sentiment", "--judge", "sentiment"), "were both given. Give one source of scores."),
        (
            ("--reward_funcs", "sentiment", "--num_generations", "1"),
            "`--num_generations` is 1: give a whole number of at least 2.",
        ),
        (
            ("--reward_funcs", "sentiment", "--temperature", "0"),
            "`--temperature` is 0. All completions of a prompt would be the same one.",
        ),
        (
            ("--reward_funcs", "sentiment", "--reward_weights", "1,2"),
            "`--reward_weights` has 2 weights for 1 reward source.",
        ),
        (
            ("--reward_funcs", "sentiment", "--threshold", "1"),
            "`--threshold` sets labels. Add `--labelled`, or remove it.",
        ),
        (
            ("--reward_funcs", "sentiment", "--labelled", "--select", "all"),
            "`--select` chooses pairs, and `--labelled`",
        ),
        (("--reward_funcs", "sentiment", "--select", "some"), "`--select` is 'some': allowed are all, best_worst."),
        (("--reward_funcs", "sentiment", "--margin", "-1"), "`--margin` is -1.0. Give a number of at least 0"),
        (("--reward_funcs", "sentiment", "--judge_model", "m"), "`--judge_model`: only a judge reads this."),
        (("--reward_funcs", "sentiment", "--prompts", "none.jsonl"), "`--prompts` is none.jsonl"),
        (("--reward_funcs", "sentiment", "--reference", "base"), "Add `--rounds`, or remove it."),
        (("--reward_funcs", "sentiment", "--adapter", "nowhere"), "`--adapter` is nowhere, which holds no adapter"),
        (("--reward_adapter", "nowhere"), "`--reward_adapter` is nowhere"),
        (
            ("--judge", "sentiment", "--comparisons", "9"),
            "the judge sentiment scores each completion alone. Remove it.",
        ),
        (
            ("--judge", "api", "--judge_model", "m", "--comparisons", "2"),
            "That does not connect 8 completions: give at least 8.",
        ),
        (("--judge", "http://127.0.0.1:9/v1", "--judge_model", "m", "--judge_retries", "0"), "cannot be reached"),
        (
            ("--rounds", "2", "--loss", "kto", "--reward_funcs", "sentiment", "--select", "all"),
            "`--select` is for pairs, and the loss of the recipe reads labelled completions.",
        ),
        (
            ("--rounds", "2", "--use_peft", "false", "--reward_funcs", "sentiment"),
            "the recipe trains all weights. Set `use_peft: true`.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_weights(small_recipe, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trl_ext.runs.loaded.start", None)
    assert main(["pairs", str(small_recipe), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "runs" / "small-pairs" / "train.jsonl").exists()


def test_settings_of_a_recipe_that_are_not_read():
    from trl_ext.checks.pairing import notes

    assert [*notes({"top_p": 1.0, "top_k": 0, "temperature": 0.7, "use_vllm": False, "generation_kwargs": {}})] == []
    assert [*notes({"top_p": 0.9, "use_vllm": True})] == [
        "`top_p` and `use_vllm` of the recipe are not read: completions are sampled from the full distribution."
    ]


def test_a_foreign_place_is_refused(small_recipe, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "data.jsonl").write_text("{}\n")
    assert pairs(small_recipe, tmp_path / "mine") == 2
    assert "a folder with files that `trl-ext pairs` did not write." in capsys.readouterr().err
    assert pairs(small_recipe, tmp_path / "data.jsonl", "--overwrite") == 2
    assert "exists and was not written by `trl-ext pairs`." in capsys.readouterr().err
    assert (tmp_path / "data.jsonl").read_text() == "{}\n"


def test_other_recipes_and_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_runs.leave(tmp_path / "run", "embedded")
    assert main(["pairs", str(run), "--reward_funcs", "sentiment", "--rounds", "2"]) == 2
    assert "`--rounds` trains a recipe" in capsys.readouterr().err
    assert main(["pairs", str(run), "--reward_funcs", "sentiment", "--loss", "ipo"]) == 2
    assert "`--loss` needs a recipe" in capsys.readouterr().err
    assert main(["pairs", "demo-ppo", "--rounds", "2"]) == 2
    assert "`--rounds` trains on the pairs that it makes, and the recipe trains PPO." in capsys.readouterr().err
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": ""}\n')
    assert main(["pairs", "demo", "--reward_funcs", "sentiment", "--prompts", str(empty)]) == 2
    assert "which has no prompts" in capsys.readouterr().err
