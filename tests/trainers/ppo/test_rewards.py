"""Where rewards come from: an adapter with a head on the policy's base, a sequence classifier, a known function."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from tests.conftest import pairs
from tests.trainers.helpers import lora, nf4
from tests.trainers.ppo.helpers import build, config, count_the, rollout
from trl_ext.demo import grammar
from trl_ext.demo.rewards import sentiment


@pytest.fixture(scope="module")
def reward_adapter(model, tmp_path_factory) -> str:
    """A few large steps of TRL's RewardTrainer, so that head and adapter have something to say."""
    folder = str(tmp_path_factory.mktemp("reward"))
    args = RewardConfig(
        output_dir=folder,
        max_steps=3,
        learning_rate=0.05,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=lora(task_type="SEQ_CLS", modules_to_save=["score"]),
    )
    trainer.train()
    trainer.save_model(folder)
    return folder


def classifier_scores(classifier, batch) -> torch.Tensor:
    """Of each completion with its prompt, alone and unpadded."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    masks = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1).bool()
    with torch.no_grad():
        return torch.cat(
            [classifier(input_ids=row[mask][None]).logits[0] for row, mask in zip(ids, masks, strict=True)]
        )


def test_a_reward_adapter_scores_as_the_classifier_it_was_trained_as(model, reward_adapter, tmp_path):
    settings = {"max_steps": 1, "lam": 1.0, "kl_coef": 0.0, "normalize_advantages": False}
    args = config(tmp_path, reward_adapter=reward_adapter, gradient_checkpointing=True, **settings)
    trainer = build(model, args, reward_funcs=None, randomise=False)
    trainer.train()
    batch = rollout(trainer)
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    classifier = PeftModel.from_pretrained(base, reward_adapter).eval()
    expected = classifier_scores(classifier, batch)
    assert expected.std() > 0.1
    # λ = γ = 1 and no values: the return of the first token is the score
    torch.testing.assert_close(batch["returns"][:, 0], expected, rtol=1e-4, atol=1e-4)
    assert trainer.recorder.logs[0]["rewards/reward_adapter/mean"] == pytest.approx(expected.mean().item(), rel=1e-3)


def test_a_reward_adapter_is_frozen_and_shares_the_base(model, reward_adapter, tmp_path):
    args = config(tmp_path, reward_adapter=reward_adapter)
    trainer = build(model, args, reward_funcs=count_the, quantization_config=nf4())
    mine = {name: p for name, p in trainer.model.named_parameters() if ".reward." in name or "reward_head" in name}
    before = {name: p.detach().clone() for name, p in mine.items()}
    trainer.train()
    assert all(torch.equal(mine[name], value) and mine[name].grad is None for name, value in before.items())
    assert {"rewards/reward_adapter/mean", "rewards/count_the/mean"} <= trainer.recorder.logs[0].keys()
    big = [p for p in trainer.model.parameters() if p.numel() > 2000 and not p.requires_grad and p.ndim == 2]
    assert len(big) == len({p.data_ptr() for p in big})
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "reward").exists()


def test_a_reward_adapter_of_another_base_is_refused_before_anything_is_loaded(reward_adapter, tmp_path):
    with pytest.raises(ValueError, match="An adapter works only on its own base"):
        build("/some/other/base", config(tmp_path, reward_adapter=reward_adapter), path=_base(reward_adapter))


def test_a_reward_adapter_without_its_head_is_refused(model, tmp_path):
    trainer = build(model, config(tmp_path))
    trainer.save_model(str(tmp_path / "policy"))
    with pytest.raises(ValueError, match="is an adapter for CAUSAL_LM, but a reward adapter is for SEQ_CLS"):
        build(model, config(tmp_path, reward_adapter=str(tmp_path / "policy")))
    path = tmp_path / "policy" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "SEQ_CLS"}))
    with pytest.raises(ValueError, match="has no head with one output"):
        build(model, config(tmp_path, reward_adapter=str(tmp_path / "policy")))


def test_a_folder_without_an_adapter_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        build(model, config(tmp_path, reward_adapter=str(tmp_path)))


def test_a_reward_adapter_that_does_not_fit_is_refused(model, reward_adapter, tmp_path):
    folder = tmp_path / "wrong"
    shutil.copytree(reward_adapter, folder)
    path = folder / "adapter_config.json"
    changed = json.loads(path.read_text()) | {"target_modules": ["q_proj"]}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="does not fit this model"):
        build(model, config(tmp_path, reward_adapter=str(folder)))


def test_a_sequence_classifier_scores_through_trl(model, tmp_path):
    torch.manual_seed(5)
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    classifier.score.weight.data.normal_()
    classifier.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "classifier")
    trainer = build(model, config(tmp_path, max_steps=1), reward_funcs=str(tmp_path / "classifier"))
    trainer.train()
    assert trainer.recorder.logs[0]["score"] == pytest.approx(trainer.recorder.logs[0]["rewards/classifier/mean"])
    assert trainer.recorder.logs[0]["rewards/classifier/std"] > 0


def test_the_known_reward_of_the_demo():
    texts = ["I loved the room. The bed was good.", "I hated the room, which was good.", "Hello."]
    conversations = [[{"role": "assistant", "content": text}] for text in texts]
    assert sentiment(completions=texts) == sentiment(completions=conversations, prompts=[]) == [1.0, 0.5, 0.5]
    assert sentiment(completions=texts) == [grammar.reward(text) for text in texts]


def _base(folder: str) -> str:
    return json.loads(Path(folder, "adapter_config.json").read_text())["base_model_name_or_path"]
