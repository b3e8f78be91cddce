"""One DPO run on a real chat model, and everything that is done with it afterwards."""

import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.real import plain
from tests.real.conftest import TRAINED
from trl_ext.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE = 1800
"""Seconds: how long a loaded machine may take for what should take twenty."""

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def dpo(recipe) -> str:
    return recipe("dpo", loss="dpo", beta=0.1, save_strategy="steps", save_steps=2, row_tokens=512)


@pytest.fixture(scope="module")
def run(dpo, folder) -> Path:
    assert main(["run", dpo]) == 0
    return folder / "dpo"


@pytest.fixture(scope="module")
def scorer(real_model) -> plain.Scorer:
    return plain.Scorer(real_model)


@pytest.fixture(scope="module")
def tuned(run, real_model):
    """The run's adapter as PEFT loads it on the base in 4 bits."""
    return PeftModel.from_pretrained(plain.in_4_bits(real_model), str(run)).eval()


@pytest.fixture(scope="module")
def held_out(tuned, scorer, dialogues):
    """Log-probabilities of the held-out pairs under the adapter and without it."""
    after = scorer.of_pairs(tuned, dialogues[TRAINED:])
    with tuned.disable_adapter():
        return after, scorer.of_pairs(tuned, dialogues[TRAINED:])


def test_the_first_loss_is_ln_2_and_three_steps_lower_it(run, tuned, scorer, dialogues):
    steps = [record for line in (run / "metrics.jsonl").open() if "loss" in (record := json.loads(line))]
    assert [record["step"] for record in steps] == [1, 2, 3]
    losses = [record["loss"] for record in steps]
    assert losses[0] == pytest.approx(math.log(2), rel=2e-5) and losses[2] < losses[1] < losses[0]
    assert steps[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert "loss at the first step 0.6931 = 0.6931" in (run / "run.log").read_text()
    with tuned.disable_adapter():
        before = scorer.of_pairs(tuned, dialogues[:TRAINED])
    after = scorer.of_pairs(tuned, dialogues[:TRAINED])
    assert steps[0]["logps/chosen"] == pytest.approx(plain.mean([sum(chosen) for chosen, _ in before]), abs=5e-3)
    assert steps[0]["logps/rejected"] == pytest.approx(plain.mean([sum(other) for _, other in before]), abs=5e-3)
    margins = [sum(a[0]) - sum(b[0]) - sum(a[1]) + sum(b[1]) for a, b in zip(after, before, strict=True)]
    assert plain.mean([plain.softplus(-0.1 * margin) for margin in margins]) < losses[2]  # after the third step


def test_eval_reports_what_plain_peft_computes(run, folder, held_out, capsys):
    assert main(["eval", str(run), "--dataset", str(folder / "held_out.jsonl"), "--samples", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name, pairs in zip(("tuned", "base"), held_out, strict=True):
        for side, kind in enumerate(("chosen", "rejected")):
            expected = plain.mean([sum(pair[side]) for pair in pairs])
            assert found["log_probability"][name][kind]["value"] == pytest.approx(expected, abs=5e-3)
    ratios = [[sum(a[i]) - sum(b[i]) for i in range(2)] for a, b in zip(*held_out, strict=True)]
    ranking = found["ranking"]["log_ratio"]
    assert ranking["margin"]["value"] == pytest.approx(plain.mean([c - r for c, r in ratios]), abs=5e-3)
    assert ranking["accuracy"]["value"] == pytest.approx(plain.mean([float(c > r) for c, r in ratios]))
    assert found["tokens"]["chosen"]["value"] == plain.mean([float(len(chosen)) for chosen, _ in held_out[0]])
    assert max(abs(ratio) for pair in ratios for ratio in pair) > 0.05  # three steps change what it says


def test_chat_in_a_pipe_answers_as_plain_peft_does(run, tuned, scorer, monkeypatch, capsys):
    question = "What is the capital of France?"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{question}\n"))
    greedy = ["--temperature", "0", "--max_new_tokens", "16"]
    assert main(["chat", str(run), "--compare", "--json", *greedy]) == 0
    answered = json.loads(capsys.readouterr().out)
    assert answered["prompt"] == question and "Paris" in answered["base_answer"] and answered["answer"].strip()
    asked = [{"role": "user", "content": question}]
    prompt = scorer.tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    def answer() -> str:
        ids = tuned.generate(**prompt, do_sample=False, max_new_tokens=16)[0, prompt["input_ids"].shape[1] :]
        return scorer.tokenizer.decode(ids, skip_special_tokens=True)

    assert answered["answer"].strip() == answer().strip()
    with tuned.disable_adapter():
        assert answered["base_answer"].strip() == answer().strip()


def test_a_merged_model_differs_as_the_merge_reports(run, folder, tuned, scorer, dialogues, real_model, capsys):
    merged = folder / "merged"
    assert main(["merge", str(run), "--output", str(merged), "--pairs", str(TRAINED), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert (reported["dtype"], reported["fidelity"]["base"]) == ("bfloat16", "4-bit")

    def sums(model) -> list[float]:
        return [sum(logps) for pair in scorer.of_pairs(model, dialogues[:TRAINED]) for logps in pair]

    def largest(one: list[float], other: list[float]) -> float:
        return max(abs(a - b) for a, b in zip(one, other, strict=True))

    of_merged = sums(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval())
    base = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()
    of_base = sums(base)
    of_adapter = sums(PeftModel.from_pretrained(base, str(run)).eval())
    drifts = {name: drift["largest_sequence"] for name, drift in reported["fidelity"].items() if type(drift) is dict}
    assert drifts["rounding"] == pytest.approx(largest(of_adapter, of_merged), abs=5e-3)
    assert drifts["total"] == pytest.approx(largest(sums(tuned), of_merged), abs=5e-3)
    with tuned.disable_adapter():
        assert drifts["quantisation"] == pytest.approx(largest(sums(tuned), of_base), abs=5e-3)
    assert largest(of_base, of_merged) > 0.1  # the adapter is in the weights


def test_after_sigkill_it_resumes_to_the_same_adapter(dpo, run, folder):
    killed, log = folder / "killed", folder / "killed.log"
    words = ["run", dpo, "--output_dir", str(killed)]
    with log.open("w") as output:  # after its second step it waits
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.runs.paused", "2", *words], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
    try:
        end = time.monotonic() + PATIENCE
        while not (killed / "checkpoint-2").is_dir():
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.1)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / WEIGHTS).exists()
    assert main([*words, "--resume_from_checkpoint", "true"]) == 0
    assert (killed / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert (killed / WEIGHTS).read_bytes() != (killed / "checkpoint-2" / WEIGHTS).read_bytes()
