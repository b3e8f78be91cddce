"""Every cell of the table in docs/adapters.md, with the tiny model: what is called exact is exact, the rest is refused.

The yardstick is plain PEFT: a model saved by it and loaded by it, and the base without an adapter.
"""

import json
from pathlib import Path

import peft
import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from tests.recipe.helpers import problem as problem_of_recipe
from tests.trainers import adapter_cases
from tests.trainers.adapter_cases import CASES, STATES, TRAINERS, Case, is_exact_on_quantised_bases, refusal
from tests.trainers.helpers import arguments, nf4
from tests.trainers.ppo.helpers import PROMPTS, config, count_the
from trl_ext.build import adapter_fit
from trl_ext.model_files import adapter_types, fit
from trl_ext.reference import frozen_copy
from trl_ext.reference.implicit import implicit_reference
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    PPOTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common import forward

IDS = torch.tensor([[2, *range(4, 40), 3]])
SAME = 2e-5
"""Nats, of the two forward passes: TRL's fused head, and the model's own logits."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
]


@pytest.fixture(scope="module")
def base(tiny_model) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def load(tiny_model):
    torch.manual_seed(5)  # an adapter that is loaded right does not depend on it
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def plain(model) -> torch.Tensor:
    """Log-probabilities of the row by the model's own forward pass."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=IDS).logits[:, -IDS.shape[1] : -1]
    return logits.log_softmax(-1).gather(-1, IDS[:, 1:, None]).squeeze(-1)


def trained(trainer, model=None) -> torch.Tensor:
    """Those of the policy, by the forward pass of training."""
    model = trainer.model if model is None else model
    model.eval()
    mask = torch.ones_like(IDS)
    with torch.no_grad():
        if isinstance(trainer, PPOTrainer):
            return trainer._get_per_token_logps_and_entropies(model, IDS, mask, IDS.shape[1] - 1)[0]
        batch = {"input_ids": IDS, "attention_mask": mask, "completion_mask": mask}
        return forward.run(model, batch).per_token_logps


def reference(trainer) -> torch.Tensor:
    with implicit_reference(trainer.model):
        return trained(trainer)


def build(trainer: str, tiny_model: str, folder: Path, model, peft_config=None):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, padding_side="left")
    given = {"model": model, "processing_class": tokenizer, "peft_config": peft_config}
    if trainer == "PPO":
        data = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])
        return PPOTrainer(args=config(folder), reward_funcs=count_the, train_dataset=data, **given)
    prompts, completions = (
        tokenizer(PROMPTS)["input_ids"],
        tokenizer([row["chosen"] for row in pairs(24)])["input_ids"],
    )
    data = {"prompt_ids": prompts, "chosen_ids": completions, "rejected_ids": completions[::-1]}
    if trainer == "DPO":
        args = PairedPreferenceConfig(**arguments(folder))
        return PairedPreferenceTrainer(args=args, train_dataset=Dataset.from_dict(data), **given)
    data = {"prompt_ids": prompts, "completion_ids": completions, "label": [True, False] * 12}
    args = UnpairedPreferenceConfig(**arguments(folder))
    return UnpairedPreferenceTrainer(args=args, train_dataset=Dataset.from_dict(data), **given)


def change(model, scale: float = 0.1) -> None:
    """Change every weight that is trained."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=SAME)


def cells(state: str, is_refused: bool):
    for case in CASES:
        if case.make is not None:
            trainers = [trainer for trainer in TRAINERS if (refusal(case, state, trainer) is not None) == is_refused]
            if trainers:
                yield pytest.param(case, trainers, id=case.title)


@pytest.mark.parametrize(("case", "trainers"), cells("new", is_refused=False))
def test_a_new_adapter_that_is_called_exact(case: Case, trainers, base, tiny_model, tmp_path):
    """The reference is the base, before and after the policy moves; the policy is what plain PEFT loads from the saved run."""
    for trainer_name in trainers:
        torch.manual_seed(1)
        trainer = build(trainer_name, tiny_model, tmp_path, tiny_model, case.make())
        before = trained(trainer)
        assert is_close(reference(trainer), plain(base))
        change(trainer.model)
        assert is_close(reference(trainer), plain(base))
        assert not torch.equal(trained(trainer), before)
        trainer.save_model(str(tmp_path / trainer_name))
        loaded = PeftModel.from_pretrained(load(tiny_model), str(tmp_path / trainer_name))
        assert is_close(trained(trainer), plain(loaded))


@pytest.mark.parametrize(("case", "trainers"), cells("continued", is_refused=False))
def test_a_continued_adapter_that_is_called_exact(case: Case, trainers, tiny_model, tmp_path):
    """Policy and reference are the model that was trained, which is also what plain PEFT loads; the reference stays so."""
    torch.manual_seed(1)
    model = get_peft_model(load(tiny_model), case.make())
    change(model)
    model.save_pretrained(tmp_path / "adapter")
    expected = plain(model)
    assert is_close(plain(PeftModel.from_pretrained(load(tiny_model), tmp_path / "adapter")), expected)
    adapter_fit.check(str(tmp_path / "adapter"), tiny_model, reads_head=True)  # they refuse other adapters only
    assert fit.problem(tmp_path / "adapter", Path(tiny_model)) is None
    for trainer_name in trainers:
        continued = PeftModel.from_pretrained(load(tiny_model), tmp_path / "adapter", is_trainable=True)
        trainer = build(trainer_name, tiny_model, tmp_path, continued)
        assert is_close(trained(trainer), expected)
        assert is_close(reference(trainer), expected)
        change(trainer.model)
        assert is_close(reference(trainer), expected)
        assert not is_close(trained(trainer), expected)


@pytest.mark.parametrize(("case", "trainers"), cells("new", is_refused=True))
def test_a_new_adapter_that_is_called_refused(case: Case, trainers, tiny_model, tmp_path):
    for trainer_name in trainers:
        with pytest.raises(ValueError) as raised:
            build(trainer_name, tiny_model, tmp_path, "/nowhere/to/be/found", case.make())
        assert str(raised.value) == refusal(case, "new", trainer_name)


REFUSED = [
    pytest.param(case, trainer, id=f"{case.title}, {trainer}")
    for case in CASES
    for trainer in TRAINERS
    if refusal(case, "continued", trainer) is not None
]
RECIPES = {
    "DPO": "",
    "KTO": "loss: kto\n",
    "PPO": "trainer: ppo\nreward_funcs: [sentiment]\n",
}


@pytest.mark.parametrize(("case", "trainer"), REFUSED)
def test_a_continued_adapter_that_is_called_refused(case: Case, trainer: str, tmp_path):
    """From its adapter_config.json, before anything is loaded."""
    content = {name: value for name, value in case.config().items() if not isinstance(value, set)}
    content |= {"base_model_name_or_path": "nobody/nothing", "peft_type": adapter_types.type_of(content)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content, default=str))
    sentence = problem_of_recipe(
        tmp_path, RECIPES[trainer], base=f"model_name_or_path: {tmp_path}\ndataset_name: embedded\n"
    )
    assert sentence.endswith(refusal(case, "continued", trainer))


ON_4_BITS = [
    pytest.param(case, id=case.title)
    for case in CASES
    if case.make is not None and is_exact_on_quantised_bases(case) and "target_parameters" not in case.title
]
"""Of parameters, PEFT supports those that are not quantised: the experts of a mixture."""


@pytest.mark.parametrize("case", ON_4_BITS)
def test_what_is_called_exact_on_a_quantised_base(case: Case, tiny_model, tmp_path):
    """What plain PEFT saves and loads, and its frozen copy, on a 4-bit base; and a gradient arrives."""

    def quantised():
        model = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=nf4(), dtype=torch.float32)
        keep_exact_cpu_kernels(model)
        return model

    torch.manual_seed(1)
    model = get_peft_model(quantised(), case.make())
    change(model)
    model.save_pretrained(tmp_path)
    expected = plain(model)
    continued = PeftModel.from_pretrained(quantised(), tmp_path, is_trainable=True)
    frozen_copy.add(continued)
    assert is_close(plain(continued), expected)
    with implicit_reference(continued):
        assert is_close(plain(continued), expected)
    continued(input_ids=IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in continued.parameters())


@pytest.mark.parametrize("init", ["pissa", "mica", "orthogonal"])
def test_what_peft_cannot_put_on_a_quantised_base_is_refused(init, tmp_path):
    content = adapter_cases.lora(init_lora_weights=init).to_dict() | {
        "peft_type": "LORA",
        "target_modules": ["q_proj"],
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": "nobody/nothing"}))
    base = f"model_name_or_path: {tmp_path}\ndataset_name: embedded\n"
    said = problem_of_recipe(tmp_path, "load_in_4bit: true\nuse_peft: true\n", base=base)
    assert f"starts as '{init}', which PEFT does not support on 4-bit or 8-bit layers" in said


def test_every_type_of_peft_is_in_the_table():
    assert {adapter_types.type_of(case.config()) for case in CASES} == {kind.value for kind in peft.PeftType}


def test_the_table_has_both_verdicts_for_every_trainer():
    rows = adapter_cases.table().splitlines()[2 : 2 + len(CASES)]
    columns = list(zip(*([cell.strip()[:5] for cell in row.split("|")[2:-1]] for row in rows), strict=True))
    assert len(columns) == len(STATES) * len(TRAINERS) and all({"exact", "refus"} == set(column) for column in columns)
