"""Settings that change the loss are reported where its formula is: by `validate`, at the first step, and on the model card."""

import json

import pytest
from datasets import Dataset

from tests.conftest import pairs
from tests.recipe.helpers import load, problem, write
from trl_ext.cli import main
from trl_ext.cli.summary import summary
from trl_ext.support.errors import UserError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "ld_alpha: 0.5\n",
            "ld_alpha 0.5: log-probs of tokens beyond the length of the pair's shorter completion are",
        ),
        ("use_weighting: true\n", "use_weighting: the loss of each pair is multiplied by the length-normalised prob"),
        ("use_weighting: true\nld_alpha: 0\n", "ld_alpha 0: "),
        ("trainer: sft\nloss_type: dft\n", "loss_type dft: each token's term is multiplied by its probability"),
        ("trainer: reward\ncenter_rewards_coefficient: 0.01\n", "0.01·(r(chosen) + r(rejected))² is added"),
    ],
)
def test_validate_reports_what_changes_the_formula(text, said, tmp_path, capsys):
    assert main(["validate", str(write(tmp_path, text))]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "changed by " in printed and said in printed


@pytest.mark.parametrize("text", ["", "ld_alpha: 1\n", "use_weighting: false\n", "loss: kto\n", "trainer: sft\n"])
def test_a_formula_that_holds_has_no_such_line(text, tmp_path):
    assert "changed by" not in summary(load(tmp_path, text))


def test_a_run_and_its_card_report_it(tiny_model, tmp_path, capsys):
    """With LD-DPO at α = 0, the loss is that of the pair's common length; at the first step both are ln 2."""
    Dataset.from_list(pairs(8)).to_json(tmp_path / "pairs.jsonl")
    recipe = {"model_name_or_path": tiny_model, "dataset_name": str(tmp_path / "pairs.jsonl"), "use_peft": True}
    recipe |= {"max_steps": 1, "ld_alpha": 0.0, "use_weighting": True}
    (tmp_path / "a.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in recipe.items()))
    assert main(["run", str(tmp_path / "a.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    printed, card = " ".join(capsys.readouterr().out.split()), (tmp_path / "run" / "README.md").read_text()
    for name, paper in (("ld_alpha 0: ", "LD-DPO, arXiv:2409.06411"), ("use_weighting: ", "WPO, arXiv:2406.11827")):
        assert f"changed by {name}" in printed and name in card and paper in card and paper in printed
    assert "| changed by | ld_alpha 0" in card


def test_float16_needs_a_gpu(tmp_path):
    said = problem(tmp_path, "fp16: true\nuse_cpu: true\n")
    assert said == (
        "`fp16` (line 3) and `use_cpu` (line 4) are both true, but training in float16 needs a GPU. Remove `fp16` to train "
        "in float32, or write `bf16: true` to emulate bfloat16, which is many times slower."
    )
    from trl_ext.build import dtypes
    from trl_ext.methods import METHODS

    if not dtypes.torch.accelerator.is_available():  # then `use_cpu` is what happens anyway, and no remedy for `fp16`
        with pytest.raises(UserError, match=r"computes in 16 bits\. Remove it to train in float32\.$"):
            dtypes.precision(load(tmp_path, "fp16: true\n"))
    for method in METHODS.values():
        with pytest.raises(ValueError, match="training in float16 needs a GPU"):
            method.classes()[1](output_dir=str(tmp_path), fp16=True, bf16=False, use_cpu=True)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_steps": 4}, "with num_steps 4. It would change"),
        ({"num_steps": 4}, "write `gradient_accumulation_steps: 4`."),
        ({"num_step": 4}, "with num_step, which accelerate does not know."),
    ],
)
def test_accumulation_stands_in_one_place(given, said, as_file, tmp_path):
    content = {"gradient_accumulation_kwargs": given}
    (tmp_path / "config.json").write_text(json.dumps(content))
    value = str(tmp_path / "config.json") if as_file else json.dumps(content)
    assert said in problem(tmp_path, f"accelerator_config: {value}\n")


def test_other_settings_of_accumulation_are_kept(tmp_path):
    load(
        tmp_path, "accelerator_config: {gradient_accumulation_kwargs: {sync_each_batch: true}, split_batches: false}\n"
    )
