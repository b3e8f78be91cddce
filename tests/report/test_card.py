"""The card of a run: its lines load what was trained, and compute what the trainer computed."""

import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig

from tests.runs.test_run import recipe  # noqa: F401  (a fixture)
from trl_ext import recipe as recipes
from trl_ext.runs import run

TEXT = "the time of all these things was the end of the day"


def executed(card: str, directory: object) -> dict:
    """The names that the code of a card defines."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found: dict = {}
    exec(code.replace("<this directory>", str(directory)), found)
    return found


@torch.no_grad()
def outputs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next tokens, or the scores of a reward model."""
    logits = model.eval()(input_ids=ids).logits
    return logits.log_softmax(-1) if logits.ndim == 3 else logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"load_in_4bit": False},
        {"use_bnb_nested_quant": True, "bnb_4bit_quant_type": "fp4"},
        {"trainer": "reward", "variants": None},
    ],
)
def test_the_lines_of_a_card_load_what_was_trained(settings, recipe, tmp_path):  # noqa: F811
    loaded = recipes.load(recipe(model_name_or_path="embedded", learning_rate=0.05, **settings))
    trainer = run.train(loaded, tmp_path / "out", None, Console(quiet=True)).built.trainer
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| max_steps | `2` |" in card and "num_train_epochs" not in card
    assert ("trained in 4 bits" in card) == bool(loaded.get("load_in_4bit"))
    found = executed(card, tmp_path / "out")
    model, tokenizer = found["model"], found["tokenizer"]
    state, saved = model.state_dict(), load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert any(value.abs().sum() for name, value in saved.items() if "lora_B" in name)
    assert all(
        torch.equal(state[name.replace(".weight", ".default.weight")], value)
        for name, value in saved.items()
        if "lora_" in name
    )
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    trained = outputs(trainer.model, ids)
    torch.testing.assert_close(outputs(model, ids), trained, atol=1e-4, rtol=0)
    with model.disable_adapter():  # the adapter does something that would be missed
        assert (outputs(model, ids) - trained).abs().max() > 1e-2


def test_the_lines_of_the_docs_load_a_run(recipe, tmp_path):  # noqa: F811
    """With a run's base, place and dtype in the places of theirs."""
    loaded = recipes.load(recipe(model_name_or_path="embedded", learning_rate=0.05))
    trainer = run.train(loaded, tmp_path / "out", None, Console(quiet=True)).built.trainer
    docs = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    base = trainer.model.get_base_model().config._name_or_path
    docs = docs[docs.index("```python\nimport torch") :]  # what comes before is about other formats
    found = executed(docs.replace("BASE", base).replace("runs/my-dpo", "out").replace("bfloat16", "float32"), "out")
    ids = found["tokenizer"](TEXT, return_tensors="pt")["input_ids"]
    torch.testing.assert_close(outputs(found["model"], ids), outputs(trainer.model, ids), atol=1e-4, rtol=0)
    assert isinstance(found["quantisation"], BitsAndBytesConfig)
