"""`trl-ext eval`: the numbers of the trainer itself, on the rows the run held out, and what it says to wrong input."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from rich.cells import cell_len
from transformers import AutoTokenizer

from tests import finished_runs
from tests.conftest import pairs
from tests.demo import preferences
from trl_ext import demo
from trl_ext.build import dataset
from trl_ext.build.trainer import build_trainer
from trl_ext.cli import main
from trl_ext.recipe import load
from trl_ext.runs.load import open_model
from trl_ext.support.sampling import logps, sample

SHORT = {"max_length": 20, "per_device_eval_batch_size": 3, "disable_tqdm": True}
HELD_OUT = {"eval_size": 7, "eval_strategy": "steps", "eval_steps": 1, "data_seed": 5, **SHORT}


@pytest.fixture
def data(tmp_path):
    Dataset.from_list(pairs(30)).to_json(tmp_path / "pairs.jsonl")
    return str(tmp_path / "pairs.jsonl")


@pytest.fixture
def evaluated(capsys):
    def evaluate(*words: str) -> dict:
        capsys.readouterr()
        assert main(["eval", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return evaluate


def trainers_own(run, tmp_path) -> tuple[dict[str, float], list[dict]]:
    """Metrics of the trainer that the run's recipe builds, given the run's adapter, and the rows it evaluates on."""
    recipe = load(run / "recipe.resolved.yaml")
    trainer = build_trainer(recipe, tmp_path / "trainer").trainer
    set_peft_model_state_dict(trainer.model, load_peft_weights(str(run)), adapter_name="default")
    rows = dataset.load(recipe, trainer.args, [])[1]
    return trainer.evaluate(), list(rows)


def value(estimate: dict) -> float:
    return estimate["value"]


@pytest.mark.parametrize("quantised", [True, False])
def test_the_numbers_are_those_of_the_trainer_on_the_rows_it_held_out(
    quantised, tiny_model, data, tmp_path, evaluated
):
    settings = {**HELD_OUT, "dataset_name": data, "beta": 0.5, "load_in_4bit": quantised}
    run = finished_runs.leave(tmp_path / "run", tiny_model, scale=0.3, **settings)
    measured, rows = trainers_own(run, tmp_path)
    found = evaluated(run, "--samples", "0")
    assert found["data"]["name"] == "pairs-held-out" and found["data"]["pairs"] == len(rows) == 7
    assert not found["data"]["was_trained_on"] and "sampled" not in found
    ratio, probability = found["log_ratio"], found["log_probability"]["tuned"]
    for side in ("chosen", "rejected"):
        assert value(probability[side]) == pytest.approx(measured[f"eval_logps/{side}"], abs=1e-4)
        assert 0.5 * value(ratio[side]) == pytest.approx(measured[f"eval_rewards/{side}"], abs=1e-4)
        assert abs(value(ratio[side])) > 0.01
        base = value(probability[side]) - value(ratio[side])
        assert value(found["log_probability"]["base"][side]) == pytest.approx(base, abs=1e-4)
    ranking = found["ranking"]["log_ratio"]
    assert 0.5 * value(ranking["margin"]) == pytest.approx(measured["eval_rewards/margins"], abs=1e-4)
    assert value(ranking["accuracy"]) == pytest.approx(measured["eval_rewards/accuracies"])
    assert json.loads((run / "eval-pairs-held-out.json").read_text()) == found


def test_an_unpaired_run_on_labelled_answers(tiny_model, tmp_path, evaluated, capsys):
    rows = [{"prompt": p["prompt"], "completion": p["chosen"], "label": i % 3 == 0} for i, p in enumerate(pairs(30))]
    Dataset.from_list(rows).to_json(tmp_path / "labels.jsonl")
    settings = {**HELD_OUT, "eval_size": 12, "dataset_name": str(tmp_path / "labels.jsonl"), "loss": "kto"}
    run = finished_runs.leave(tmp_path / "run", tiny_model, scale=0.3, **settings)
    measured, rows = trainers_own(run, tmp_path)
    found = evaluated(run, "--samples", "4", "--max_new_tokens", "3")
    assert found["data"]["answers"] == len(rows) == 12
    for name, trainers in (("desirable", "chosen"), ("undesirable", "rejected")):
        assert value(found["log_probability"]["tuned"][name]) == pytest.approx(
            measured[f"eval_logps/{trainers}"], abs=1e-4
        )
        assert 0.1 * value(found["log_ratio"][name]) == pytest.approx(measured[f"eval_rewards/{trainers}"], abs=1e-4)
    assert 0 < value(found["ranking"]["log_ratio"]["area_under_curve"]) < 1 and found["sampled"]["n"] == 4
    assert main(["eval", str(run), "--samples", "99", "--max_new_tokens", "2"]) == 0
    printed, prompts = capsys.readouterr().out, {row["prompt"] for row in rows}
    assert f"Only {len(prompts)} of 99 completions were sampled: the data has no more distinct prompts." in printed
    assert "Desirable ranked above undesirable, by:" in printed and "\n AUC  " in printed


def test_pairs_that_an_unpaired_run_took_apart_are_pairs_again(tiny_model, data, tmp_path, evaluated):
    settings = {**HELD_OUT, "dataset_name": data}
    found = [
        evaluated(finished_runs.leave(tmp_path / loss, tiny_model, scale=0.3, loss=loss, **settings), "--samples", "0")
        for loss in ("dpo", "kto")
    ]
    assert found[0]["ranking"] == found[1]["ranking"] and found[1]["data"]["pairs"] == 7


def test_the_demo_agrees_with_what_its_run_reports(tmp_path, evaluated):
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3, max_length=256)
    found = evaluated(run, "--limit", "40", "--samples", "24", "--max_new_tokens", "12")
    assert found["data"]["name"] == "embedded-test" and not found["data"]["was_trained_on"]
    lines = (demo.DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    opened = open_model(run)
    expected = preferences.held_out(opened.model, opened.tokenizer, list(map(json.loads, lines)))
    ranking = found["ranking"]
    assert value(ranking["log_ratio"]["accuracy"]) == pytest.approx(expected["accuracy"])
    assert value(ranking["log_ratio"]["margin"]) == pytest.approx(expected["margin"], abs=1e-4)
    assert ranking["log_ratio"]["margin"]["high"] == pytest.approx(
        expected["margin"] + 1.959964 * expected["margin_se"], abs=1e-3
    )
    assert value(ranking["base"]["accuracy"]) == pytest.approx(expected["reference_accuracy"])

    # The KL from the same completions, scored in another way.
    prompts = [json.loads(line)["prompt"] for line in lines[:24]]
    completions = sample(opened.model, opened.tokenizer, prompts, seed=0, max_new_tokens=12)
    policy = logps(opened.model, opened.tokenizer, completions)
    with opened.model.disable_adapter():
        reference = logps(opened.model, opened.tokenizer, completions)
    sampled = found["sampled"]
    assert value(sampled["kl"]["k1"]) == pytest.approx((policy - reference).mean().item(), abs=1e-4)
    assert value(sampled["tokens"]["tuned"]) == sum(len(c.ids) for c in completions) / 24
    assert value(sampled["ended"]["tuned"]) == sum(c.is_ended for c in completions) / 24
    assert value(sampled["log_ratio"]["base"]) < 0 < value(sampled["kl"]["k3"])


def test_k3_is_summed_over_tokens(tmp_path):
    import numpy as np

    from trl_ext.evaluation import samples
    from trl_ext.evaluation.scores import Scored

    class Made:
        train_dataset = {"prompt_ids": [[5], [], [6], [5]], "prompt": ["a", "", "b", "a"]}  # noqa: RUF012

        def scored_whole(self, prompt_ids, pairs):
            assert prompt_ids == [[5], [6]] and len(pairs) == 2  # each once, none empty
            ratio = np.array([0.5, -1.0], dtype=np.float32)
            return [[Scored(ratio, 0 * ratio), Scored(0 * ratio, ratio)]] * 2

    class Opened:
        model = tokenizer = None

        def reference(self):
            return torch.no_grad()

    from trl_ext.support.sampling import Completion

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            samples,
            "sample",
            lambda model, tokenizer, prompts, **_: [Completion(p, [1, 2], "", True) for p in prompts],
        )
        found = samples.evaluate_samples(Opened(), Made(), samples.Sampling(n=8), {})
    expected = (np.exp(-0.5) - 1 + 0.5) + (np.exp(1.0) - 1 - 1.0)
    assert found["kl"]["k1"].value == pytest.approx(-0.5) and found["kl"]["k3"].value == pytest.approx(expected)
    assert found["log_ratio"]["base"].value == pytest.approx(0.5)


def test_of_a_continued_run_the_base_is_the_adapter_it_began_with(tiny_model, data, tmp_path, evaluated):
    settings = {**HELD_OUT, "dataset_name": data}
    first = finished_runs.leave(tmp_path / "first", tiny_model, scale=0.3, **settings)
    second = finished_runs.leave(tmp_path / "second", str(first), scale=0.3, seed=1, **settings)
    found = [evaluated(run, "--samples", "0") for run in (first, second)]
    assert value(found[1]["log_probability"]["base"]["chosen"]) == pytest.approx(
        value(found[0]["log_probability"]["tuned"]["chosen"]), abs=1e-4
    )
    measured = trainers_own(second, tmp_path)[0]  # whose reference is its own copy of the first
    assert 0.1 * value(found[1]["log_ratio"]["chosen"]) == pytest.approx(measured["eval_rewards/chosen"], abs=1e-4)
    assert "the adapter" in found[1]["reference"] and found[0]["reference"] == "the same model with its adapter off"


def test_a_run_that_trained_all_weights(tiny_model, data, tmp_path, evaluated):
    run = finished_runs.leave_all_weights(tmp_path / "run", tiny_model, dataset_name=data, **HELD_OUT)
    found = evaluated(run, "--samples", "4", "--max_new_tokens", "3")
    adapter = finished_runs.leave(tmp_path / "adapter", tiny_model, dataset_name=data, **HELD_OUT)
    other = evaluated(adapter, "--samples", "0")
    for side in ("chosen", "rejected"):  # one base, loaded in two ways
        base = value(other["log_probability"]["base"][side])
        assert value(found["log_probability"]["base"][side]) == pytest.approx(base, abs=1e-4)
    assert abs(value(found["log_ratio"]["chosen"])) > 0.01


def test_other_data_and_other_trainers(tmp_path, data, evaluated, capsys):
    sft = finished_runs.leave(tmp_path / "sft", "embedded", trainer="sft", max_length=64)
    ppo = finished_runs.leave(tmp_path / "ppo", "embedded", trainer="ppo", reward_funcs=["sentiment"])
    of_sft = evaluated(sft, "--limit", "5", "--samples", "0")
    of_ppo = evaluated(ppo, "--limit", "5", "--samples", "0")
    assert of_sft["data"]["name"] == "embedded-test" and of_sft["ranking"] == of_ppo["ranking"]

    [row] = [{"q": "a", "good": "b c", "bad": "d"}]
    Dataset.from_list([row] * 3).to_json(tmp_path / "others.jsonl")
    columns = "{prompt: q, chosen: good, rejected: bad}"
    output = tmp_path / "new" / "record.json"
    words = [
        "--dataset",
        tmp_path / "others.jsonl",
        "--dataset_columns",
        columns,
        "--samples",
        "0",
        "--output",
        output,
    ]
    found = evaluated(ppo, *words)
    assert found["data"]["name"] == "others-train" and not found["data"]["was_trained_on"]
    assert json.loads(output.read_text())["data"]["pairs"] == 3

    Dataset.from_list(
        [*Dataset.from_json(str(data)).select(range(2)), {"prompt": "a", "chosen": "b", "rejected": "c"}]
    ).to_json(tmp_path / "seen.jsonl")
    run = finished_runs.leave(tmp_path / "run", "embedded", dataset_name=data, **SHORT)
    found = evaluated(run, "--dataset", tmp_path / "seen.jsonl", "--samples", "0")
    assert found["data"]["was_trained_on"]
    assert any("overlap with the training data (2 identical" in line for line in found["data"]["statements"])

    on_training = evaluated(sft, "--split", "train", "--limit", "4", "--samples", "0")
    assert on_training["data"]["was_trained_on"] and "trained on this split" in on_training["data"]["statements"][-2]


def test_a_run_that_evaluated_on_a_split_is_evaluated_on_the_same_rows(tmp_path, evaluated):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_eval_samples": 6, "max_length": 256}
    found = evaluated(finished_runs.leave(tmp_path / "run", "embedded", **settings), "--samples", "0")
    plain = evaluated(
        finished_runs.leave(tmp_path / "plain", "embedded", max_length=256), "--samples", "0", "--limit", "6"
    )
    stream = finished_runs.leave(tmp_path / "stream", "embedded", dataset_streaming=True, max_steps=1, max_length=256)
    assert evaluated(stream, "--samples", "0", "--limit", "6")["ranking"] == plain["ranking"]
    assert found["ranking"] == plain["ranking"] and found["data"]["pairs"] == 6
    assert (
        found["data"]["statements"][-1]
        == "Only the first 6 rows are evaluated (`max_eval_samples`, as in the run's own evaluation)."
    )


def test_what_is_printed_fits_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    finished_runs.leave(tmp_path / "run", "embedded", scale=0.3, max_length=40)
    assert main(["eval", "run", "--limit", "30", "--samples", "8", "--max_new_tokens", "8"]) == 0
    printed = capsys.readouterr().out
    assert "left out because" not in printed and "KL(tuned‖base), from 8 sampled completions" in printed
    assert "record   run/eval-embedded-test.json" in printed
    tables = printed[printed.index("Chosen ranked") : printed.index("KL(tuned")].splitlines()
    assert max(map(cell_len, tables)) <= 80
    labels = [line.strip().split("  ")[0] for line in tables if line.strip(" ─")]
    assert labels[2:6] == ["accuracy", "per token", "margin, nats", "per token"], printed
    assert labels[7:] == ["chosen", "rejected", "sampled, tuned", "sampled, base"], printed


def test_prompts_that_are_too_long_are_counted(tiny_model, data, tmp_path, evaluated):
    run = finished_runs.leave(tmp_path / "run", tiny_model, dataset_name=data, **{**SHORT, "max_length": 8})
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    long = sum(len(tokenizer(pair["prompt"])["input_ids"]) >= 8 for pair in pairs(30))
    found = evaluated(run, "--split", "train", "--samples", "0")
    assert found["data"]["too_long"] == long > 0 and found["data"]["pairs"] == 30 - long


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["RUN"], "The run held no rows out, and DATA has only the split `train`, on which it trained."),
        (["RUN", "--dataset", "absent.jsonl"], "`--dataset` is absent.jsonl, and there is no such file or folder"),
        (["RUN", "--dataset", "prompts.jsonl"], "Pairs need prompt, chosen and rejected"),
        (["RUN", "--split", "validation"], "`validation` was asked for"),
        (["RUN", "--split", "train", "--dataset_columns", "q"], "`--dataset_columns` is 'q'"),
        (["RUN", "--limit", "0"], "`--limit` is 0: give a whole number of at least 1"),
        (["RUN", "--samples", "-1"], "`--samples` is -1"),
        (["SFT"], "held out data of its own kind, which has no preferences"),
        (["REWARD"], "holds a reward model, which cannot generate text"),
        (["MODEL"], "MODEL holds no recipe.resolved.yaml, so it was not written by `trl-ext run`"),
        (["SHORT", "--split", "train"], "every prompt has 1 tokens"),
    ],
)
def test_wrong_input(words, message, tiny_model, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Dataset.from_list([{"question": "x"}]).to_json("prompts.jsonl")
    made = {
        "RUN": lambda path: finished_runs.leave(path, tiny_model, dataset_name=data, **SHORT),
        "SHORT": lambda path: finished_runs.leave(path, tiny_model, dataset_name=data, max_length=1),
        "SFT": lambda path: finished_runs.leave(path, tiny_model, dataset_name=data, trainer="sft", eval_size=4),
        "REWARD": lambda path: finished_runs.leave(path, tiny_model, dataset_name=data, trainer="reward"),
        "MODEL": lambda path: shutil.copytree(tiny_model, path),
    }
    places = [str(made[word](tmp_path / word)) if word in made else word for word in words]
    assert main(["eval", *places]) == 2
    assert message.replace("DATA", data) in capsys.readouterr().err


def test_data_that_is_not_there_is_said_of_the_flag_that_named_it(tmp_path, capsys):
    run = finished_runs.leave(tmp_path / "run", "embedded")
    assert main(["eval", str(run), "--dataset", "nope.jsonl"]) == 2
    assert "trl-ext: `--dataset` is nope.jsonl, and " in capsys.readouterr().err
