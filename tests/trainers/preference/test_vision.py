"""Preference data with images: TRL's collation in the workers, packed rows of pairs, and our losses."""

import json

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.data_utils import unpair_preference_dataset

from tests.trainers.helpers import Recorder, arguments, lora, randomise_lora_b, relative_difference
from trl_ext.batching import images
from trl_ext.cli import main
from trl_ext.evaluation.rows import Rows
from trl_ext.evaluation.scores import scorer
from trl_ext.runs.load import open_model
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if m['content'] is string %}{{ m['content'] }} {% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] != 'user' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("tiny-vlm"))
    words = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "<image>",
        "USER:",
        "ASSISTANT:",
        *COLOURS,
        "what",
        "colour",
        "is",
        "it",
    ]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                pad_token_id=0,
                eos_token_id=3,
            ),
            image_token_index=4,
            vision_feature_select_strategy="default",
        )
    )
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def image_pairs(count: int) -> Dataset:
    names = list(COLOURS)
    rows = [
        {
            "images": [Image.new("RGB", (16, 16), COLOURS[names[i % 3]])],
            "prompt": [{"role": "user", "content": "what colour is it"}],
            "chosen": [{"role": "assistant", "content": names[i % 3]}],
            "rejected": [{"role": "assistant", "content": names[(i + 1 + i % 2) % 3] + " is it" * (i % 2)}],
        }
        for i in range(count)
    ]
    return Dataset.from_list(rows)


def labelled_images(count: int) -> Dataset:
    """Labelled completions, desirable and undesirable ones by turns."""
    rows = unpair_preference_dataset(image_pairs(count // 2))
    return rows.select([i // 2 + i % 2 * (count // 2) for i in range(count)])


def train(cls, config, model, dataset=None):
    trainer = cls(
        model=model,
        args=config,
        train_dataset=dataset or image_pairs(16),
        processing_class=AutoProcessor.from_pretrained(model),
        peft_config=lora(target_modules=r".*language_model.*\.(q_proj|v_proj)"),
    )
    randomise_lora_b(trainer.model)
    trainer.recorder = Recorder()
    trainer.add_callback(trainer.recorder)
    trainer.train()
    return trainer


@pytest.mark.parametrize(("theirs", "ours"), [("sigmoid", "dpo"), ("ipo", "ipo")])
def test_vision_pairs_train_as_in_trl(theirs, ours, tiny_vlm, tmp_path):
    settings = {
        "max_steps": 2,
        "max_length": None,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    trl = train(DPOTrainer, DPOConfig(**arguments(tmp_path, **settings), loss_type=[theirs]), tiny_vlm)
    mine = train(
        PairedPreferenceTrainer,
        PairedPreferenceConfig(**arguments(tmp_path, **settings), loss=ours),
        tiny_vlm,
    )
    for step in range(2):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-5
        for name in ("loss", "rewards/chosen", "rewards/margins", "logps/rejected", "entropy", "num_tokens"):
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-5, abs=1e-5)
            assert mine.recorder.logs[step][name] == expected
    assert mine.image_rows.is_packed
    # One micro-batch of four pairs, under policy and reference: TRL's collator repeats each image.
    assert images_seen(trl, image_pairs(4)) == 2 * images_seen(mine, image_pairs(4)) == 2 * 2 * 4
    found, expected = (trainer.predict(image_pairs(3)) for trainer in (mine, trl))
    assert np.allclose(found.predictions, expected.predictions, atol=1e-4)
    assert (found.label_ids == expected.label_ids).all()


def images_seen(trainer, pairs) -> int:
    """Images that the tower is given while a trainer computes the loss of one micro-batch."""
    seen = []
    tower = trainer.model.get_base_model().model.vision_tower
    handle = tower.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(args[0])), with_kwargs=True)
    trainer.evaluate(pairs)
    handle.remove()
    return sum(seen)


class Watching(PairedPreferenceTrainer):
    """Reads the batches of its step."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        assert len(inputs["pixel_values"]) == len(inputs["input_ids"])
        return super().compute_loss(model, inputs, *args, **kwargs)


class Untouched(PairedPreferenceTrainer):
    """Reads nothing."""


def wrong_positions(backbone, batch):
    return torch.zeros_like(batch["packed"].position_ids)


@pytest.mark.parametrize(
    ("cls", "changes", "sentence"),
    [
        (Watching, {}, "rows: padded; packing is off for this model: `Watching` overrides `compute_loss`"),
        (Untouched, {"packing": False}, ""),
        (Untouched, {"fault": True}, "packing is off for this model: packed and padded log-probabilities disagree"),
    ],
)
def test_images_that_cannot_be_packed_are_padded(cls, changes, sentence, tiny_vlm, tmp_path, monkeypatch, capsys):
    """With the reason, and the loss and gradient of TRL's trainer."""
    settings = {"max_steps": 1, "max_length": None, "per_device_train_batch_size": 4}
    if changes.pop("fault", False):
        monkeypatch.setattr(images, "own_positions", wrong_positions)
    trl = train(DPOTrainer, DPOConfig(**arguments(tmp_path, **settings)), tiny_vlm)
    capsys.readouterr()
    mine = train(cls, PairedPreferenceConfig(**arguments(tmp_path, **settings), **changes), tiny_vlm)
    shown = capsys.readouterr().out
    assert sentence in shown and shown.count("rows:") == bool(sentence)
    assert not mine.image_rows.is_packed
    assert relative_difference(mine.recorder.gradients[0], trl.recorder.gradients[0]) < 1e-5
    assert mine.recorder.logs[0]["loss"] == pytest.approx(trl.recorder.logs[0]["loss"], rel=1e-5)


def test_a_model_that_fails_on_images_is_named(tiny_vlm, tmp_path, monkeypatch):
    """As Llama 4 does with transformers 5.24, whose output lacks a field that it reads."""

    def forward(*args, **kwargs):
        return object().image_outputs

    monkeypatch.setattr(LlavaForConditionalGeneration, "get_image_features", forward)
    monkeypatch.setattr("transformers.models.llava.modeling_llava.LlavaModel.get_image_features", forward)
    with pytest.raises(
        UserError, match=r"LlavaForConditionalGeneration of transformers .* fails on examples with images"
    ):
        train(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path, max_length=None)), tiny_vlm)


def test_labelled_images_train_as_in_trl(tiny_vlm, tmp_path, capsys):
    settings = {"max_steps": 2, "max_length": None, "train_sampling_strategy": "sequential"}
    theirs = KTOConfig(**arguments(tmp_path, **settings), loss_type="kto")
    ours = UnpairedPreferenceConfig(**arguments(tmp_path, **settings))
    trl = train(KTOTrainer, theirs, tiny_vlm, labelled_images(16))
    mine = train(UnpairedPreferenceTrainer, ours, tiny_vlm, labelled_images(16))
    for step in range(2):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-5
        for name in ("loss", "rewards/chosen", "rewards/margins", "logps/rejected", "entropy", "kl"):
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-5, abs=1e-5)
            assert mine.recorder.logs[step][name] == expected, name
    assert max(log["kl"] for log in trl.recorder.logs) > 0
    assert capsys.readouterr().out.count("rows: padded; packing is for pairs, where data has images") == 1
    measured, expected = (trainer.evaluate(labelled_images(8)) for trainer in (mine, trl))
    assert measured["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)


def test_the_baseline_of_images_is_that_of_the_whole_step(tiny_vlm, tmp_path):
    """The mismatched pairs of all micro-batches are averaged before the mean is clamped; here from full logits."""
    settings = {"per_device_train_batch_size": 4, "max_length": None, "max_steps": 1, "learning_rate": 0.0}
    config = UnpairedPreferenceConfig(**arguments(tmp_path, **settings), train_sampling_strategy="sequential")
    trainer = train(UnpairedPreferenceTrainer, config, tiny_vlm, labelled_images(16))
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            parameter.mul_(-1 if "lora_B" in name else 1)
    first, second, *_ = trainer.get_train_dataloader()
    batches = [first, second, second]

    def log_ratios(batch):
        ids, scored = batch["KL_input_ids"], batch["KL_completion_mask"][:, 1:]
        inputs = {
            "input_ids": ids,
            "attention_mask": batch["KL_attention_mask"],
            "pixel_values": batch["pixel_values"],
        }

        def logps():
            logits = trainer.model(**inputs).logits[:, :-1]
            return (logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2) * scored).sum(1)

        with torch.no_grad(), trainer.model.disable_adapter():
            reference = logps()
        with torch.no_grad():
            return logps() - reference

    apart = [log_ratios(batch) for batch in batches]
    assert apart[0].mean() < 0 < torch.cat(apart).mean()  # so that it matters where the mean is clamped
    z = trainer.row_objective.baseline.estimate_collated(batches)
    assert z == pytest.approx(torch.cat(apart).mean().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"per_device_train_batch_size": 1}, "Give at least 2, or use `loss: apo_zero_unpaired`"),
        ({"precompute_ref_log_probs": True}, "`precompute_ref_log_probs` is not supported for vision datasets"),
    ],
)
def test_what_images_do_not_allow_is_refused_before_the_model_is_read(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        UnpairedPreferenceTrainer(
            model="no-such-model",
            args=UnpairedPreferenceConfig(**arguments(tmp_path, **settings)),
            train_dataset=labelled_images(4),
            peft_config=lora(target_modules=["q_proj"]),
        )


@pytest.fixture(scope="module")
def finished_run(tiny_vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    image_pairs(16).save_to_disk(folder / "pictures")
    recipe = {
        "model_name_or_path": tiny_vlm,
        "dataset_name": str(folder / "pictures"),
        "loss": "dpo",
        "use_peft": True,
        "lora_target_modules": r".*language_model.*\.(q_proj|v_proj)",
        "max_steps": 2,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 4,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    (folder / "pictures.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(folder / "pictures.yaml"), "--output_dir", str(folder / "out")]) == 0
    return folder / "out"


def test_a_recipe_trains_on_images(finished_run):
    log = (finished_run / "run.log").read_text()
    assert "= 0.6931, the known value" in log
    assert "rows: packed, with the prompt of a pair and its images once; attention segment by segment" in log
    assert (finished_run / "adapter_model.safetensors").exists()


def test_a_recipe_for_images_is_refused_before_weights_are_read(tiny_vlm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labelled_images(4).save_to_disk("pictures")
    recipe = {
        "model_name_or_path": tiny_vlm,
        "dataset_name": "pictures",
        "loss": "kto",
        "max_steps": 1,
        "use_peft": True,
    }
    (tmp_path / "pictures.yaml").write_text(yaml.safe_dump(recipe | {"per_device_train_batch_size": 1}))
    monkeypatch.setattr("trl_ext.build.trainer.load_policy", None)
    assert main(["run", "pictures.yaml", "--output_dir", "out"]) == 2
    assert "pairs each image with the completion of another example" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [image_pairs, labelled_images])
def test_images_are_evaluated(rows, finished_run):
    """Log-probabilities of policy and reference against those of full logits, one completion at a time."""
    opened, data, is_paired = open_model(finished_run, needs_reference=True), rows(6), rows is image_pairs
    made = scorer(opened, Rows(data, is_paired, "pictures", []))
    scored = list(made.scored(made.train_dataset))
    assert len(scored) == 6
    for row, found in zip(data, scored, strict=True):
        answers = [row["chosen"], row["rejected"]] if is_paired else [row["completion"]]
        assert len(found) == len(answers)
        for answer, one in zip(answers, found, strict=True):
            prompt = f"USER: <image> {row['prompt'][-1]['content']} ASSISTANT: "
            texts = [prompt, f"{prompt}{answer[-1]['content']} </s>"]
            start, inputs = (opened.processor(images=row["images"], text=text, return_tensors="pt") for text in texts)
            with torch.no_grad():
                policy = completion_logps(opened.model, inputs, start)
                with opened.model.disable_adapter():
                    reference = completion_logps(opened.model, inputs, start)
            assert torch.allclose(torch.from_numpy(one.policy), policy, atol=1e-5)
            assert torch.allclose(torch.from_numpy(one.reference), reference, atol=1e-5)
            assert not torch.allclose(policy, reference, atol=1e-5)


def completion_logps(model, inputs, start) -> torch.Tensor:
    logits = model(**inputs).logits[0, :-1].log_softmax(-1)
    return logits.gather(1, inputs["input_ids"][0, 1:, None]).squeeze(1)[start["input_ids"].shape[1] - 1 :]


def test_a_run_on_images_is_evaluated_by_its_command(finished_run, monkeypatch, capsys):
    monkeypatch.chdir(finished_run.parent)
    assert main(["eval", str(finished_run), "--split", "train", "--limit", "6", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"]["pairs"] == 6 and "sampled" not in record
