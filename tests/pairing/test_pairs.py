"""`trl-ext pairs`: what is written, from which model and by which scores."""

import json
from pathlib import Path

from tests import finished_runs
from tests.judging.stub_server import MODEL, says, serving
from tests.pairing.command import PROMPTS, SHORT, N, pairs, read
from trl_ext.cli import main
from trl_ext.demo import grammar
from trl_ext.support.sampling import sample


def test_the_data_is_the_best_and_the_worst_of_independent_samples(small_recipe, policy, done, capsys):
    (completions,) = (done / "kept").glob("completions-*")
    kept = {json.dumps(row["prompt"]): row["value"] for row in read(completions)}
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
        for row in read(next((output / "kept").glob("completions-*")))
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
        kept.append(read(next((tmp_path / weights / "kept").glob("completions-*"))))
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
