"""What critic, reference and reward model add to plain LoRA training of the policy, against four models side by side."""

from pathlib import Path

import pytest
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification, TrainerCallback

from tests.trainers.helpers import lora
from tests.trainers.ppo.helpers import build, config
from trl_ext.planner import counting, memory
from trl_ext.planner.memory import GIB, Storage
from trl_ext.planner.models import MODELS
from trl_ext.planner.shape import Shape
from trl_ext.trainers.rollout import roles

LLAMA = counting.count(MODELS["meta-llama/Llama-3.1-8B"], 16)
PAGE = (Path(__file__).parents[3] / "docs" / "rl.md").read_text(encoding="utf-8")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def state(shape: Shape, **storage) -> float:
    return sum(memory.training_state(shape, Storage(**storage)).values())


def added(shape: Shape, optimizer: str) -> float:
    """Bytes beyond plain LoRA training: a trained adapter and head, a frozen adapter and head, no reference at all."""
    four_roles = state(shape, optimizer=optimizer, trained_adapters=2, frozen_adapters=1)
    value_head, reward_head = shape.hidden + 1, shape.hidden  # the value head has a bias
    heads = value_head * (4 + 4 + memory.optimizer_bytes(optimizer)) + reward_head * 4
    return four_roles - state(shape, optimizer=optimizer) + heads


def side_by_side(shape: Shape, optimizer: str, bits: int) -> float:
    """Bytes of four models: policy and reference whole, critic and reward model with a scalar head for the LM head.

    Policy and critic train a LoRA each; the reward model is taken as merged, so that it has none.
    """
    weights = memory.weights(shape, Storage(bits=bits))
    return 4 * sum(weights.values()) - 2 * weights["LM head"] + state(shape, optimizer=optimizer, trained_adapters=2)


def test_the_adapter_of_llama_by_hand():
    # q and o 4096 + 4096, k and v 4096 + 1024, gate, up and down 4096 + 14336; rank 16, 32 layers
    assert LLAMA.adapter.parameters == 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432) == 41_943_040
    # Critic: weight, gradient and two moments in float32; reward model: weight. The heads are 82 KB.
    assert added(LLAMA, "adamw_torch") == 41_943_040 * (16 + 4) + 4097 * 16 + 4096 * 4


@pytest.mark.parametrize(
    ("optimizer", "bits", "share"),
    [("adamw_torch", 4, 0.0380), ("paged_adamw_8bit", 4, 0.0273), ("adamw_torch", 16, 0.0132)],
)
def test_four_roles_of_an_8b_model_add_less_than_a_twentieth_of_four_models(optimizer, bits, share):
    extra, separate = added(LLAMA, optimizer), side_by_side(LLAMA, optimizer, bits)
    assert extra / separate < 0.05
    assert extra / separate == pytest.approx(share, abs=0.0001)
    row = next(line for line in PAGE.splitlines() if f"`{optimizer}`" in line and f"{bits} bits" in line)
    assert [cell.strip() for cell in row.split("|")[3:6]] == [
        f"{extra / GIB:.2f} GiB",
        f"{separate / GIB:.1f} GiB",
        percent(extra / separate),
    ]


def test_the_other_figures_of_the_page():
    extra, four = added(LLAMA, "adamw_torch"), side_by_side(LLAMA, "adamw_torch", 4)
    policy = sum(memory.weights(LLAMA, Storage()).values()) + state(LLAMA)
    text, others = " ".join(PAGE.split()), four - policy
    assert f"The first row adds {extra / 2**20:.0f} MiB" in text
    assert (
        f"would add {others / GIB:.1f} GiB in 4 bits; {extra / 2**20:.0f} MiB is {percent(extra / others)} of that"
        in text
    )
    twice = counting.count(MODELS["meta-llama/Llama-3.1-8B"], 32)
    extra, four = added(twice, "adamw_torch"), side_by_side(twice, "adamw_torch", 4)
    assert f"{extra / 2**20:.0f} MiB at rank 32, {percent(extra / four)} of four models" in text


class Bytes(TrainerCallback):
    """Bytes of each role's gradients, caught before the step drops them."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.nbytes for name, p in model.named_parameters() if p.grad is not None}


def test_a_real_trainer_holds_what_the_arithmetic_says(model, tmp_path):
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    adapter = lora(task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"])
    get_peft_model(classifier, adapter).save_pretrained(tmp_path / "reward")
    args = config(tmp_path / "run", max_steps=1, optim="adamw_torch", reward_adapter=str(tmp_path / "reward"))
    trainer = build(model, args, reward_funcs=None, peft_config=lora(target_modules="all-linear"), randomise=False)
    caught = Bytes()
    trainer.add_callback(caught)
    trainer.train()

    policy = set(map(id, roles.policy_parameters(trainer.model)))
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    moments = sum(
        value.nbytes
        for parameter, state in trainer.optimizer.state.items()
        for key, value in state.items()
        if key != "step" and id(parameter) not in policy
    )
    parts = (".critic.", ".reward.", *roles.HEADS.values())
    own = [name for name in names.values() if any(part in name for part in parts)]
    held = sum(trainer.model.get_parameter(name).nbytes for name in own)
    held += sum(caught.gradients.get(name, 0) for name in own) + moments
    shape = counting.count(AutoConfig.from_pretrained(model).to_dict(), 4)
    assert held == added(shape, "adamw_torch")

    base = [p for p in trainer.model.parameters() if names[id(p)] not in own and id(p) not in policy]
    assert len({p.untyped_storage().data_ptr() for p in base}) == len(base)
    assert sum(p.numel() for p in base) == shape.parameters  # the reference is this base, held once
