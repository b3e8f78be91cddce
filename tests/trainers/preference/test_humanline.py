"""Humanline variants of DPO and KTO, against the authors' definition in plain PyTorch on two whole models.

The definition is written a second time: token log-ratios clipped to [log ε_P, log ε_R], summed; after the gradient is computed and
before the optimizer step the reference gets the weights of the policy.
"""

import copy
import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, lora, randomise_lora_b
from tests.trainers.preference.test_reference_sync import merged
from trl_ext.batching.mismatched import mismatched
from trl_ext.methods import METHODS
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer

LOW, HIGH, BETA = -0.02, 0.03, 0.5
"""Bounds so near to 0 that single steps of these models leave them."""
HUMANLINE = {
    "humanline": True,
    "humanline_log_epsilon_p": LOW,
    "humanline_log_epsilon_r": HIGH,
    "sync_ref_model": True,
    "ref_model_mixup_alpha": 1.0,
    "ref_model_sync_steps": 1,
    "beta": BETA,
}
SIZE = 4


def trainer_for(kind, model, folder, steps=3, peft_config=None, **changes):
    cls, config = METHODS[kind].classes()
    settings = {"per_device_train_batch_size": SIZE, "max_steps": steps, "dataloader_num_workers": 0, **HUMANLINE}
    args = config(**arguments(folder, **settings | changes))
    return build(cls, args, model, examples=pairs(SIZE), peft_config=peft_config)


def token_logps(model, prompt, completion):
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)]


def log_ratio(policy, reference, prompt, completion):
    with torch.no_grad():
        before = token_logps(reference, prompt, completion)
    return (token_logps(policy, prompt, completion) - before).clamp(LOW, HIGH).sum()


def dpo(policy, reference, rows):
    margins = [
        log_ratio(policy, reference, row["prompt_ids"], row["chosen_ids"])
        - log_ratio(policy, reference, row["prompt_ids"], row["rejected_ids"])
        for row in rows
    ]
    return -torch.nn.functional.logsigmoid(BETA * torch.stack(margins)).mean()


def kto(policy, reference, rows):
    with torch.no_grad():
        others = [log_ratio(policy, reference, p["prompt_ids"], p["completion_ids"]) for p in mismatched(rows)]
    z = torch.stack(others).mean().clamp(min=0)
    found = []
    for row in rows:
        surplus = log_ratio(policy, reference, row["prompt_ids"], row["completion_ids"]) - z
        found.append(1 - torch.sigmoid(BETA * (surplus if row["label"] else -surplus)))
    return torch.stack(found).mean()


def train_plainly(model, rows, loss, steps, every, rate):
    """Losses of the steps, the policy and the reference after them."""
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    reference = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        value = loss(policy, reference, rows)
        value.backward()
        if step % every == 0:
            reference.load_state_dict(policy.state_dict())
        optimizer.step()
        losses.append(value.item())
    return losses, policy, reference


def as_rows(trainer):
    """The tokenised examples, of which each step has all."""
    return [
        {key: value for key, value in dict(row).items() if key.endswith("_ids") or key == "label"}
        for row in trainer.train_dataset
    ]


@pytest.mark.parametrize(("kind", "loss", "every"), [("paired", dpo, 1), ("paired", dpo, 2), ("unpaired", kto, 1)])
def test_all_weights_against_the_definition(kind, loss, every, tiny_model, tmp_path):
    changes = {"learning_rate": 0.05, "ref_model_sync_steps": every}
    size = {"per_device_train_batch_size": 2 * SIZE} if kind == "unpaired" else {}
    trainer = trainer_for(kind, tiny_model, tmp_path, steps=4, row_tokens=120, **changes, **size)
    rows = as_rows(trainer)
    trainer.train()
    losses, policy, reference = train_plainly(tiny_model, rows, loss, 4, every, 0.05)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["loss"] for log in logs] == pytest.approx(losses, abs=2e-5)
    assert abs(losses[-1] - losses[0]) > 1e-3
    assert logs[0]["humanline/clipped"] == 0 and 0 < logs[-1]["humanline/clipped"] < 1
    for ours, plain in ((trainer.model, policy), (trainer.ref_model, reference)):
        for (name, value), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("kind", "loss", "packing"), [("paired", dpo, True), ("paired", dpo, False), ("unpaired", kto, True)]
)
def test_an_adapter_is_one_step_ahead_of_its_reference(kind, loss, packing, tiny_model, tmp_path):
    """After n steps the reference is the policy after n − 1, and the next loss is that of the two merged models."""
    at = {}
    for steps in (2, 3):
        trainer = trainer_for(
            kind, tiny_model, tmp_path, steps=steps, peft_config=lora(), learning_rate=2.0, packing=packing
        )
        trainer.train()
        assert trainer.rows.is_packed is packing
        names = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n}
        at[steps] = {side: {n: p for n, p in names.items() if f".{side}." in n} for side in ("default", "ref")}
    before, reference = at[2]["default"], at[3]["ref"]
    assert all(torch.equal(value, reference[name.replace(".default.", ".ref.")]) for name, value in before.items())
    assert any(not torch.equal(value, before[name]) for name, value in at[3]["default"].items())
    expected = loss(merged(trainer, tiny_model, "default"), merged(trainer, tiny_model, "ref"), as_rows(trainer))
    found = trainer.evaluate(trainer.train_dataset)
    assert found["eval_loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert found["eval_humanline/clipped"] > 0


def test_a_clipped_token_has_no_gradient(tiny_model, tmp_path):
    """The first step is in range, since the policy is its reference. In the second all tokens are out of it: the loss is constant."""
    bounds = {"humanline_log_epsilon_p": -1e-4, "humanline_log_epsilon_r": 1e-4}
    trainer = trainer_for("paired", tiny_model, tmp_path, steps=2, peft_config=lora(), learning_rate=5.0, **bounds)
    randomise_lora_b(trainer.model, scale=0.0)
    trainer.train()
    first, second = (log for log in trainer.state.log_history if "loss" in log)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["humanline/clipped"] == 0
    assert second["humanline/clipped"] == 1 and second["grad_norm"] == 0 < first["grad_norm"]


@pytest.mark.parametrize("peft_config", [lora(), None], ids=["adapter", "all weights"])
def test_a_resumed_run_is_the_uninterrupted_one(peft_config, tiny_model, tmp_path):
    config = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.05}
    whole, resumed = (
        trainer_for("paired", tiny_model, tmp_path, steps=4, peft_config=copy.deepcopy(peft_config), **config)
        for _ in range(2)
    )
    whole.train()
    saved = load_file(tmp_path / "checkpoint-2" / "trl_ext_reference.safetensors")
    assert saved
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = dict(whole._moving_weights())
    assert all(torch.equal(value, expected[name]) for name, value in resumed._moving_weights().items())
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log][-2:] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert whole.references.cache is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sync_ref_model": False}, r"Add `sync_ref_model: true`, `ref_model_mixup_alpha: 1\.0`"),
        ({"ref_model_mixup_alpha": 0.6}, r"Add `sync_ref_model: true`, `ref_model_mixup_alpha: 1\.0`"),
        ({"loss": "ipo"}, "the loss is ipo: humanline variants exist of dpo and kto"),
        ({"loss": {"dpo": 1.0, "sft": 0.1}}, "humanline variants exist of dpo and kto"),
        ({"humanline_log_epsilon_p": 0.0}, r"the range has to contain 0"),
        ({"humanline_log_epsilon_r": -0.5}, r"the range has to contain 0"),
        ({"ld_alpha": 0.5}, "both change the log-ratios of tokens"),
        ({"precompute_ref_log_probs": True}, "Keep one of the two settings"),
    ],
)
def test_settings_that_make_no_humanline_variant_are_refused(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        PairedPreferenceConfig(**arguments(tmp_path, **HUMANLINE | changes))


def test_images_are_refused(tiny_model, tmp_path):
    rows = Dataset.from_list([{**row, "images": []} for row in pairs(2)])
    with pytest.raises(ValueError, match="`humanline` is not supported for vision datasets"):
        PairedPreferenceTrainer(
            model=tiny_model,
            args=PairedPreferenceConfig(**arguments(tmp_path, **HUMANLINE)),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
        )
