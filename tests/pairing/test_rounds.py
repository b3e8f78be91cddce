"""`trl-ext pairs --rounds`: what each round trains on and from, and that a stopped command continues where it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trl_ext import demo
from trl_ext.cli import main
from trl_ext.evaluation.prompts import Prompts
from trl_ext.pairing import held_out, rounds
from trl_ext.pairing.prompts import part
from trl_ext.pairing.settings import changes

WORDS = (
    "--reward_funcs",
    "sentiment",
    "--num_generations",
    "2",
    "--max_new_tokens",
    "12",
    "--keep_truncated",
    "--limit",
    "6",
)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(held_out, "MOST", 4)


def repeat(recipe, output, *words, number=2):
    return main(["pairs", str(recipe), *WORDS, "--rounds", str(number), "--output", str(output), *words])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "rounds"


@pytest.fixture
def done(small_recipe, whole, capsys):
    """The folder of two rounds that were not interrupted."""
    if not whole.exists():
        assert repeat(small_recipe, whole) == 0
        (whole / "printed.txt").write_text(capsys.readouterr().out)
    return whole


def test_rounds(small_recipe, done):
    printed = (done / "printed.txt").read_text()
    assert "Training continues the adapter" in printed and "the reference is the base model without it" in printed
    first, second = (yaml.safe_load((done / f"round-{i}" / "recipe.yaml").read_text()) for i in (1, 2))
    assert first["model_name_or_path"] == "embedded" and "reference" not in first
    assert second["model_name_or_path"] == str(done / "round-1" / "run") and second["reference"] == "base"
    assert second["dataset_name"] == str(done / "round-2" / "data")
    # Each round has the next six prompts.
    asked = [json.loads(line)["prompt"] for line in (demo.DATA / "train.jsonl").read_text().splitlines()]
    for i in (1, 2):
        (kept,) = (done / f"round-{i}" / "data" / "kept").glob("completions-*")
        assert [json.loads(line)["prompt"] for line in kept.read_text().splitlines() if line] == asked[
            6 * i - 6 : 6 * i
        ]
    seeds = [
        json.loads((done / f"round-{i}" / "data" / "provenance.json").read_text())["sampling"]["seed"] for i in (1, 2)
    ]
    assert seeds == [0, rounds.SEEDS_APART]
    records = [
        json.loads((done / name).read_text()) for name in ("before.json", "round-1/round.json", "round-2/round.json")
    ]
    assert records[0]["after"]["kl"]["value"] == 0 and records[0]["after"]["n"] == 4
    assert records[2]["after"]["kl"]["value"] != 0
    last = printed.rpartition("after round")[2]
    assert [line.split()[0] for line in last.splitlines() if line.split()[:1] in (["start"], ["1"], ["2"])] == [
        "start",
        "1",
        "2",
    ]


def test_the_kl_is_that_of_plain_peft(done, small_recipe):
    """The mean of log π − log π_base, each model loaded by itself and every completion scored alone."""
    from trl_ext import recipe
    from trl_ext.pairing.policy import Policy
    from trl_ext.support.sampling import sample

    run = done / "round-2" / "run"
    policy = Policy.of_adapter(recipe.load(small_recipe), run)
    base = AutoModelForCausalLM.from_pretrained(demo.MODEL, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(demo.MODEL, dtype=torch.float32), run)
    lines = [json.loads(line) for line in (demo.DATA / "test.jsonl").read_text().splitlines()]
    prompts = [line["prompt"] for line in lines[:4]]
    ratios = []
    for one in sample(policy.load(), policy.tokenizer(), prompts, seed=0, max_new_tokens=12):
        ids = torch.tensor([one.prompt_ids + one.ids])
        with torch.no_grad():
            logps = [
                model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[-len(one.ids) :].sum()
                for model in (tuned, base)
            ]
        ratios.append((logps[0] - logps[1]).item())
    record = json.loads((done / "round-2" / "round.json").read_text())["after"]
    assert record["kl"]["value"] == pytest.approx(sum(ratios) / 4, abs=1e-4)


@pytest.mark.parametrize("what", ["sampling", "measuring"])
def test_a_stopped_round_continues_to_the_same_weights(small_recipe, done, tmp_path, monkeypatch, what):
    """The folder as it is when the second round is stopped there, and the same command again."""
    output = tmp_path / "rounds"
    shutil.copytree(done / "round-1", output / "round-1")
    for name in ("rounds.json", "before.json"):
        shutil.copy2(done / name, output / name)
    (output / "round-1" / "recipe.yaml").write_text((done / "round-1" / "recipe.yaml").read_text())
    place = {
        "sampling": "trl_ext.pairing.sample.sample",
        "measuring": "trl_ext.pairing.held_out.log_ratios",
    }[what]

    def failing(*args, **settings):
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(place, failing)
        with pytest.raises(RuntimeError, match="stopped"):
            repeat(small_recipe, output)
    assert (output / "round-2" / "run" / "adapter_config.json").exists() == (what != "sampling")
    trained = []
    original = rounds.run.train
    monkeypatch.setattr(rounds.run, "train", lambda *args: trained.append(args) or original(*args))
    assert repeat(small_recipe, output) == 0
    assert len(trained) == (1 if what == "sampling" else 0)
    ours, theirs = (weights(folder / "round-2" / "run") for folder in (output, done))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    data = [(folder / "round-2" / "data" / "train.jsonl").read_bytes() for folder in (output, done)]
    assert data[0] == data[1]


def test_other_settings_are_refused_and_more_rounds_are_not(small_recipe, done, capsys, monkeypatch):
    monkeypatch.setattr(rounds, "make_pairs", None)
    monkeypatch.setattr(rounds, "_train", None)
    assert repeat(small_recipe, done, "--reference", "last", "--learning_rate", "2e-3") == 2
    error = capsys.readouterr().err
    assert (
        "holds rounds with other settings: `learning_rate` was 0.001 and is 0.002, `reference` was base and is last."
        in error
    )
    assert repeat(small_recipe, done) == 0  # complete: nothing is sampled or trained
    assert repeat(small_recipe, done, number=1) == 0
    with pytest.raises(TypeError):  # a third round begins
        repeat(small_recipe, done, number=3)


def test_labelled_rounds_from_the_last(small_recipe, tmp_path, capsys):
    words = ("--loss", "kto", "--reference", "last", "--max_steps", "1", "--per_device_train_batch_size", "4")
    assert repeat(small_recipe, tmp_path / "rounds", *words) == 0
    second = yaml.safe_load((tmp_path / "rounds" / "round-2" / "recipe.yaml").read_text())
    assert second["reference"] == "start" and second["loss"] == "kto"
    printed = capsys.readouterr().out
    assert "the reference is a frozen copy of it" in printed
    row = json.loads((tmp_path / "rounds" / "round-2" / "data" / "train.jsonl").read_text().splitlines()[0])
    assert {*row} == {"prompt", "completion", "label", "score"}


def test_the_prompts_of_a_round():
    found = Prompts([*"abcde"], {"n": [*range(5)]}, "five", [])
    assert part(found, 0, None).prompts == part(found, 3, 9).prompts == [*"abcde"]
    assert part(found, 0, 2).prompts == ["a", "b"] and part(found, 1, 2).columns == {"n": [2, 3]}
    assert part(found, 2, 2).prompts == ["e", "a"]  # from the start again


def test_what_differs_in_words():
    was = {
        "sampling": {"seed": 0},
        "prompts": {"n": 4, "digest": "a"},
        "scoring": {"sources": {"function:f": {"content": "x"}}},
    }
    now = {
        "sampling": {"seed": 1},
        "prompts": {"n": 5, "digest": "b"},
        "scoring": {"sources": {"function:f": {"content": "y"}}},
    }
    assert changes(was, now) == [
        "`seed` was 0 and is 1",
        "there are other prompts",
        "the code or the files that scores come from have changed",
    ]
