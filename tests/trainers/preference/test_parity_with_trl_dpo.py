"""Loss, metrics, gradients and weights against `trl.DPOTrainer` itself, step for step.

TRL runs each optimizer step as one micro-batch of 8; we run the same 8 examples as 2 × 4 cut into rows. TRL's
optimizer step then is the plain mean over the step too, so everything must agree to float tolerance.
"""

import pytest
from trl import DPOConfig, DPOTrainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, relative_difference, weights
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer

SAME_METRICS = (
    "loss",
    "entropy",
    "num_tokens",
    "logits/chosen",
    "logits/rejected",
    "mean_token_accuracy",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)

# TRL's name, ours, settings both understand
CASES = [
    ("sigmoid", "dpo", {}),
    ("hinge", "hinge", {"beta": 0.3}),
    ("ipo", "ipo", {}),
    ("exo_pair", "exo", {"label_smoothing": 1e-3}),
    ("nca_pair", "nca", {}),
    ("robust", "robust", {"label_smoothing": 0.1}),
    ("bco_pair", "bco_pair", {}),
    ("sppo_hard", "sppo_hard", {}),
    ("aot", "aot", {}),
    ("aot_unpaired", "aot_unpaired", {}),
    ("apo_zero", "apo_zero", {}),
    ("apo_down", "apo_down", {}),
    # At its default 0.05, float32 roundings of the log-ratio are taken times 20 and the bound depends on the kind of CPU; the
    # formula is compared at the default in `tests/losses/test_against_trl.py`.
    ("discopop", "discopop", {"discopop_tau": 0.5}),
    ("sigmoid_norm", "dpo_norm", {"beta": 2.0}),
    ("sigmoid", "dpo", {"f_divergence_type": "js_divergence"}),
    ("sigmoid", "dpo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
    ("sigmoid", "dpo", {"f_divergence_type": "forward_kl"}),
    ("aot", "aot", {"label_smoothing": 0.1}),
    ("sigmoid", "dpo", {"ld_alpha": 0.4}),
    ("sigmoid", "dpo", {"use_weighting": True}),
]


def run(cls, config, model):
    trainer = build(cls, config, model)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("theirs", "ours", "settings"),
    CASES,
    ids=[f"{c[1]}{'-' + next(iter(c[2])) if c[2] else ''}" for c in CASES],
)
def test_same_loss_metrics_gradients_and_weights(theirs, ours, settings, tiny_model, tmp_path):
    trl = run(DPOTrainer, DPOConfig(**arguments(tmp_path / "trl"), loss_type=[theirs], **settings), tiny_model)
    mine = run(
        PairedPreferenceTrainer,
        PairedPreferenceConfig(
            **arguments(tmp_path / "ours", per_device_train_batch_size=4, gradient_accumulation_steps=2),
            loss=ours,
            row_tokens=100,
            **settings,
        ),
        tiny_model,
    )
    for step in range(3):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-5
        for name in SAME_METRICS:
            # Rewards are differences of float32 sums of about 40 nats, good to 4e-6 each.
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-5, abs=1e-5)
            assert mine.recorder.logs[step][name] == expected, name
    assert relative_difference(weights(mine), weights(trl)) < 1e-5


def test_a_weighted_mix_is_trls_list_of_losses(tiny_model, tmp_path):
    names, factors = ["sigmoid", "bco_pair", "hinge"], [0.8, 0.2, 1.0]
    trl = run(DPOTrainer, DPOConfig(**arguments(tmp_path / "trl"), loss_type=names, loss_weights=factors), tiny_model)
    loss = {"dpo": 0.8, "bco_pair": 0.2, "hinge": 1.0}
    mine = run(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path / "ours"), loss=loss), tiny_model)
    assert relative_difference(mine.recorder.gradients[0], trl.recorder.gradients[0]) < 1e-5
    assert mine.recorder.logs[0]["loss"] == pytest.approx(trl.recorder.logs[0]["loss"], rel=1e-5)


def test_sft_averages_over_examples_where_trl_averages_over_tokens(tiny_model, tmp_path):
    """TRL's `sft` is the mean over all completion tokens of a micro-batch, ours over each example's, then examples.

    They agree where all completions are equally long, and only there.
    """
    equal = [{**pair, "chosen": " the of and"} for pair in pairs(8)]
    for examples, agree in ((equal, True), (pairs(8), False)):
        settings = {"max_steps": 1}
        trl = build(
            DPOTrainer, DPOConfig(**arguments(tmp_path, **settings), loss_type=["sft"]), tiny_model, examples=examples
        )
        trl.train()
        config = PairedPreferenceConfig(**arguments(tmp_path, **settings), loss="sft")
        mine = build(PairedPreferenceTrainer, config, tiny_model, examples=examples)
        mine.train()
        same = relative_difference(mine.recorder.gradients[0], trl.recorder.gradients[0]) < 1e-5
        assert same is agree


def test_a_ragged_last_micro_batch_weighs_its_examples_like_all_others(tiny_model, tmp_path):
    """Ten examples as 8 + 2: TRL averages the two micro-batches and counts the last two examples four times.

    Ours is what TRL computes when it runs the ten as one micro-batch.
    """
    gradients = {}
    for name, cls, config_class, batch in (
        ("TRL, one micro-batch", DPOTrainer, DPOConfig, (10, 1)),
        ("TRL, ragged", DPOTrainer, DPOConfig, (8, 2)),
        ("ours, ragged", PairedPreferenceTrainer, PairedPreferenceConfig, (8, 2)),
    ):
        settings = {"per_device_train_batch_size": batch[0], "gradient_accumulation_steps": batch[1], "max_steps": 1}
        trainer = build(cls, config_class(**arguments(tmp_path, **settings)), tiny_model, examples=pairs(10))
        trainer.train()
        gradients[name] = trainer.recorder.gradients[0]
    assert relative_difference(gradients["ours, ragged"], gradients["TRL, one micro-batch"]) < 1e-5
    assert relative_difference(gradients["TRL, ragged"], gradients["TRL, one micro-batch"]) > 0.01
