"""The results are those of the harness' own command on the base and on the merged model."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

pytest.importorskip("lm_eval", reason="needs the extra `tasks`")

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tests import finished_runs
from tests.evaluation.tasks import files
from trl_ext import demo
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.evaluate import evaluate_run
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.support.sampling import unwatched


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    other = files.CHOOSE.replace("task: choose", "task: other").replace("num_fewshot: 1", "num_fewshot: 0")
    texts = {"choose": files.CHOOSE, "other": other, "write": files.WRITE, "read": files.READ, "both": files.GROUP}
    return files.write(tmp_path_factory.mktemp("parity") / "tasks", **texts)


def measured(run, folder, **settings):
    return evaluate_run(
        run, TaskChoice((str(folder),), **settings), print, lambda items, total, title: unwatched(items, total)
    )


def harness(model, folder, monkeypatch, **settings) -> dict:
    """Results of the harness itself, called as its command calls it, with data paths relative to the current folder."""
    monkeypatch.chdir(folder)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = ["both", "write", "read"]
    found = simple_evaluate(
        model=model, tasks=names, task_manager=manager, bootstrap_iters=0, batch_size=16, **settings
    )
    return found["results"]


def base_model(**options):
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL, dtype=torch.float32, **options)
    keep_exact_cpu_kernels(model)
    return model


def loaded_by_harness(model) -> HFLM:
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(demo.MODEL), batch_size=16)


def metric(entry: dict, name: str) -> dict:
    return entry if entry["metric"] == name else entry["others"][name]


@pytest.mark.parametrize("settings", [{}, {"apply_chat_template": True}, {"num_fewshot": 2, "limit": 5}])
def test_the_base_is_exactly_that_of_the_harness(settings, folder, tmp_path, monkeypatch):
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3, load_in_4bit=False)
    found = measured(run, folder, **settings)
    own = harness(loaded_by_harness(base_model()), folder, monkeypatch, **settings)
    choose = {**found["both"]["subtasks"], **found}["choose"]
    assert metric(choose, "acc")["base"]["value"] == own["choose"]["acc,none"]
    assert metric(choose, "acc_norm")["base"]["value"] == own["choose"]["acc_norm,none"]
    assert found["both"]["base"]["value"] == own["both"]["acc,none"]
    assert found["write"]["base"]["value"] == own["write"]["exact_match,none"]
    assert found["read"]["base"]["value"] == own["read"]["word_perplexity,none"]
    assert abs(found["read"]["difference"]["value"]) > 1  # the adapter changes the model


def test_the_tuned_model_is_the_merged_one(folder, tmp_path, monkeypatch):
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3, load_in_4bit=False)
    found = measured(run, folder)
    merged = PeftModel.from_pretrained(base_model(), run).merge_and_unload()
    own = harness(loaded_by_harness(merged), folder, monkeypatch)
    assert found["read"]["tuned"]["value"] == pytest.approx(own["read"]["word_perplexity,none"], rel=1e-4)
    assert found["both"]["tuned"]["value"] == own["both"]["acc,none"]
    assert found["write"]["tuned"]["value"] == own["write"]["exact_match,none"]


def test_a_4_bit_base_is_exact_and_the_tuned_model_is_the_merged_one(folder, tmp_path, monkeypatch):
    """Merged into the values that the 4-bit weights stand for."""
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3, load_in_4bit=True, use_bnb_nested_quant=False)
    found = measured(run, folder)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    quantised = base_model(quantization_config=config)
    keep_exact_cpu_kernels(quantised)
    own = harness(loaded_by_harness(quantised), folder, monkeypatch)
    assert found["read"]["base"]["value"] == own["read"]["word_perplexity,none"]
    assert found["both"]["base"]["value"] == own["both"]["acc,none"]
    merged = PeftModel.from_pretrained(quantised.dequantize(), run).merge_and_unload()
    own = harness(loaded_by_harness(merged), folder, monkeypatch)
    assert found["read"]["tuned"]["value"] == pytest.approx(own["read"]["word_perplexity,none"], rel=1e-3)
    assert found["both"]["tuned"]["value"] == own["both"]["acc,none"]
