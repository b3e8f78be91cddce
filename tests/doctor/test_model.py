"""The recipe's model and tokenizer: on this computer or not, fitting or not."""

import json
from pathlib import Path

from tests.doctor.helpers import RECIPE
from trl_ext import demo, doctor


def test_a_model_on_the_hub_is_looked_for_in_the_cache_alone(said_of, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.model, "is_offline", lambda: False)
    found = said_of("Qwen/Qwen3-0.6B")
    assert found["model"].status == "warn" and found["model"].found == "Qwen/Qwen3-0.6B is not in the Hub cache"
    assert (
        found["model"].remedy == "The first run downloads it (1 GiB); to download it now: hf download Qwen/Qwen3-0.6B"
    )
    assert "tokenizer" not in found
    monkeypatch.setattr(doctor.model, "is_offline", lambda: True)
    found = said_of("org/unknown")
    assert found["model"].status == "fail" and found["model"].remedy.endswith(
        "run hf download org/unknown on a computer with a network and copy the cache."
    )
    assert found["plan"].found == "the config.json of org/unknown is not on this computer"
    assert found["plan"].remedy == "`trl-ext plan r.yaml` downloads it."


def test_tokenizers(said_of, changed_model, tmp_path):
    found = said_of(changed_model("config.json", vocab_size=100))["tokenizer"]
    assert found.status == "fail" and "beyond the model's 100 embeddings" in found.found
    assert found.remedy == "Use the tokenizer the model was trained with, or resize the embeddings and save both."
    found = said_of(changed_model("tokenizer_config.json", pad_token=None))["tokenizer"]
    assert found.status == "pass" and "pad none (eos is used)" in found.found
    found = said_of(changed_model("tokenizer_config.json", eos_token=None))["tokenizer"]
    assert (str(found.status), found.found) == ("fail", "has no end-of-sequence token")
    assert found.remedy == "Set `eos_token` in its tokenizer_config.json."


def test_templates(said_of, changed_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL)
    pad = tokenizer.pad_token
    changed_model("tokenizer_config.json", bos_token=pad)
    template, generation = (tmp_path / "changed" / name for name in ("chat_template.jinja", "generation_config.json"))
    template.write_text(f"{pad}{pad}" + "{% for m in messages %}{{ m.content }}{% endfor %}" + pad)
    generation.write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    Path(tmp_path, "r.yaml").write_text(RECIPE.format(model="changed", dataset="embedded", more=""))
    findings = [f for f in doctor.examine("r.yaml") if f.check == "chat template"]
    assert [(str(f.status), f.found, f.remedy) for f in findings] == [
        (
            "warn",
            f"ends messages with {pad!r}, which does not stop generation",
            f"Make it the `eos_token` (now {tokenizer.eos_token}), or end messages with {tokenizer.eos_token} in the template.",
        ),
        ("warn", f"begins with {pad} twice", "Remove one from the template."),
    ]
    generation.write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, tokenizer.pad_token_id]}))
    findings = [f for f in doctor.examine("r.yaml") if f.check == "chat template"]
    assert [finding.found for finding in findings] == [f"begins with {pad} twice"]


def test_where_ppo_and_generation_end(said_of, changed_model):
    name = changed_model("generation_config.json", eos_token_id=7)
    ppo = "trainer: ppo\nreward_funcs: [sentiment]\n"
    found = said_of(name, ppo)["generation"]
    assert found.status == "warn" and "by generation_config.json, but the tokenizer's end is <|end|>" in found.found
    assert found.remedy.startswith("Add ") and "`eos_token_id` there" in found.remedy
    assert "generation" not in said_of(name)
