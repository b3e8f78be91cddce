"""`trl-ext kl`: tables, picture, JSON, and what it says to wrong input."""

import json
import math
import shutil

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from trl_ext import recipe
from trl_ext.cli import main
from trl_ext.kl_audit import picture, report
from trl_ext.kl_audit.exact import CELLS, Audit, Row, audit_exactly

PNG = b"\x89PNG"


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """What a finished run on plain pairs leaves, with an adapter that is away from its base."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "small-dpo"
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs(16))))
    settings = {
        "model_name_or_path": tiny_model,
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "use_peft": True,
        "load_in_4bit": True,
        "loss": "dpo",
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    recipe.load("small.yaml").dump(directory / "recipe.resolved.yaml")
    return directory


def test_the_exact_audit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["kl"]) == 0
    printed = capsys.readouterr().out
    assert f"KL {audit_exactly().kl:.2f} nats per completion" in printed
    for cell in CELLS:
        assert " ".join(cell) in printed
    line = next(line for line in printed.splitlines() if line.startswith(" k2 loss sequence"))
    assert line.split()[:7] == ["k2", "loss", "sequence", "-31", "%", "2.1", "1.00"]
    assert "picture  kl-audit.png" in printed
    assert (tmp_path / "kl-audit.png").read_bytes().startswith(PNG)


def test_json_is_all_there_is(tmp_path, capsys):
    picture = tmp_path / "new" / "audit"
    assert main(["kl", "--json", "--output", str(picture)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["picture"] == f"{picture}.png" and picture.with_suffix(".png").exists()
    rows = facts["exact"]["rows"]
    assert len(rows) == len(CELLS) == 16 and {
        row["cosine"] for row in rows if (row["estimator"], row["placement"]) == ("k1", "loss")
    } == {None}


def test_a_run_is_sampled(run, tmp_path, capsys):
    assert main(["kl", str(run), "--n", "64", "--max_new_tokens", "5"]) == 0
    printed = capsys.readouterr().out
    assert "sampling 64 completions" in printed and f"{run}:KL" in "".join(printed.split())  # however lines are broken
    assert printed.count("k2 loss sequence") == 2
    assert (run / "kl-audit.png").read_bytes().startswith(PNG)

    # a recipe stands for its latest run; a sample is the same for the same seed
    audits = []
    for given in (str(run), "small.yaml"):
        assert main(["kl", given, "--n", "64", "--max_new_tokens", "5", "--json"]) == 0
        audits.append(json.loads(capsys.readouterr().out)["sampled"])
    assert audits[0] == audits[1] and audits[0]["n"] == 64


def test_the_result_is_kept_beside_the_picture(run, capsys):
    assert main(["kl", str(run), "--n", "64", "--max_new_tokens", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((run / "kl-audit.json").read_text())
    assert kept == printed | {"source": str(run)} and len(kept["sampled"]["rows"]) == len(CELLS)


@pytest.mark.parametrize(("scale", "begins"), [(0.0, "KL 0: policy and reference are the same"), (2e-3, "KL ")])
def test_of_a_kl_near_0_nothing_is_estimated(run, capsys, monkeypatch, scale, begins):
    """Scaling the adapter by s scales a small KL by s²; neither gradients nor a table are made."""
    from safetensors.torch import load_file, save_file

    from trl_ext.kl_audit import sampled

    weights = run / "adapter_model.safetensors"
    save_file({name: w * (scale if "lora_B" in name else 1) for name, w in load_file(weights).items()}, weights)
    monkeypatch.setattr(sampled, "audit_samples", None)
    assert main(["kl", str(run), "--n", "64", "--max_new_tokens", "5"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert begins in printed and "and nothing can be estimated" in printed and "lost in noise" not in printed
    kept = json.loads((run / "kl-audit.json").read_text())["sampled"]
    assert kept["rows"] == [] and 0 <= kept["kl"] < 2 / 64
    assert (run / "kl-audit.png").read_bytes().startswith(PNG)


def test_a_kl_is_lost_where_the_error_of_k1_exceeds_it():
    """log π − log ref of one completion has variance 2·KL for a small KL, so n completions need a KL of 2 / n."""
    from trl_ext.kl_audit.sampled import enough, is_lost_in_noise

    assert is_lost_in_noise(1.99 / 512, 512) and not is_lost_in_noise(2.01 / 512, 512)
    assert not is_lost_in_noise(1e-3, enough(1e-3)) and enough(1e-3) == 8000
    assert is_lost_in_noise(0.0, 10**9) and is_lost_in_noise(-1e-9, 10**9)


def test_more_completions_are_asked_for_only_where_they_help():
    said = [
        report.about_small_kl(Audit(kl, [], kl_se=kl / 2, n=512), n) for kl, n in ((2e-3, 4000), (2e-9, 4 * 10**9))
    ]
    assert said[0].endswith("Sample more (`--n 4000`), or train the run further.")
    assert said[1].endswith("larger than the KL. Train the run further.")


def test_a_recipe_without_a_run_gets_the_exact_audit(run, capsys):
    shutil.copy("small.yaml", "all.yaml")  # the run there is was not of this one
    assert main(["kl", "all.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("small language, exactly" in line for line in lines)
    assert (
        "Nothing is sampled: all.yaml has no finished run yet, and every KL is 0 at the start of training. Train it first: "
        "`trl-ext run all.yaml`."
    ) in lines


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"trainer": "reward"}, "Nothing is sampled: other.yaml trains a reward model, which writes no completions."),
        (
            {"use_peft": False, "load_in_4bit": False},
            "Nothing is sampled: other.yaml trains no adapter, and the reference is the model with its adapter off.",
        ),
    ],
)
def test_what_no_run_of_a_recipe_could_be_sampled_from(run, tmp_path, capsys, settings, why):
    written = yaml.safe_load((tmp_path / "small.yaml").read_text()) | settings
    if "trainer" in settings:
        del written["loss"]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(written))
    assert main(["kl", "other.yaml"]) == 0
    printed = capsys.readouterr().out
    assert why in printed and "sampling" not in printed


def test_a_recipe_that_continues_an_adapter_is_sampled_with_it(run, tmp_path, capsys):
    """As the adapter's own run is, on the prompts of the recipe's data; the picture stays out of the adapter's folder."""
    written = yaml.safe_load((tmp_path / "small.yaml").read_text()) | {"model_name_or_path": str(run)}
    (tmp_path / "on.yaml").write_text(yaml.safe_dump(written))
    assert main(["kl", "on.yaml", "--n", "64", "--max_new_tokens", "5"]) == 0
    printed = capsys.readouterr().out
    assert f"sampling 64 completions from {run}" in printed.replace("\n", "")
    (note,) = [line for line in printed.splitlines() if "no finished run" in line]
    assert (
        "The samples are from the adapter that it continues, and the reference is the base without an adapter." in note
    )
    assert "frozen copy of that adapter, so every KL starts at 0." in note
    assert (tmp_path / "kl-audit.png").exists() and not (run / "kl-audit.png").exists()
    audits = []
    for given in ("on.yaml", str(run)):
        assert main(["kl", given, "--n", "64", "--max_new_tokens", "5", "--json"]) == 0
        audits.append(json.loads(capsys.readouterr().out)["sampled"])
    assert audits[0] == audits[1] and audits[0]["kl"] > 0


PPO = {
    "trainer": "ppo",
    "reward_funcs": ["sentiment"],
    "per_device_train_batch_size": 8,
    "advantage": "grpo",
    "kl_estimator": "k2",
    "kl_placement": "loss",
}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {},
            "this recipe: k2 in the loss at sequence level, advantage grpo, scale_rewards group, loss aggregation sequence",
        ),
        (
            {"loss_aggregation": "sum", "scale_rewards": "none"},
            "that of the objective with kl_coef·G/(G−1) in place of kl_coef",
        ),
        (
            {"kl_estimator": "k1", "kl_placement": "reward"},
            "The expected gradient of a step is not that of E[score] − kl_coef·KL(π‖ref), but it is zero at the same optimum π*.",
        ),
        ({"kl_coef": 0}, "this recipe: the KL coefficient is 0, so it trains without a KL"),
    ],
)
def test_a_recipe_reads_what_its_own_steps_estimate(run, tmp_path, capsys, monkeypatch, settings, said):
    written = yaml.safe_load((tmp_path / "small.yaml").read_text()) | PPO | settings
    del written["loss"]
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.setattr(picture, "draw", lambda path, *_: path)
    assert main(["kl", "rl.yaml"]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    # the mark of the recipe, in the table of estimators, in that of steps and in the legend
    assert printed.count("◀") == (0 if settings.get("kl_coef") == 0 else 3)
    if not settings:
        assert main(["kl", "rl.yaml", "--json"]) == 0
        step = json.loads(capsys.readouterr().out)["step"]
        assert step["verdict"] == step["enumerated"]["verdict"] and step["settings"]["advantage"] == "grpo"


def test_cosines_that_are_lost_in_noise_are_counted():
    def audit(*cosines, n=None):
        cells = [("k1", "reward", "token"), ("k2", "loss", "token"), ("k1", "loss", "token")]
        rows = [
            Row(*cell, 0.0, 1.0, cosine, 0.01, 1.0, 0.1, 0.04, 0.01)
            for cell, cosine in zip(cells, cosines, strict=True)
        ]
        return Audit(0.5, rows, kl_se=0.1, n=n, n_weights=10)

    exact = audit(1.0, 0.9, math.nan)  # whose last gradient is zero
    said = report.noise_note({"exact": exact, "sampled": audit(1.0, math.nan, math.nan, n=64)})
    assert said == (
        "1 of 3 sampled cosines (—) are lost in noise with 64 completions. Sample more, for example with `--n 512`."
    )
    assert report.noise_note({"exact": exact, "sampled": audit(1.0, 0.8, math.nan, n=64)}) is None
    assert report.noise_note({"exact": exact}) is None


def test_an_estimate_beyond_1_is_printed_as_the_cosine_it_can_be(capsys):
    from rich.console import Console

    def audit(cosine):
        row = Row("k1", "reward", "token", 0.0, 1.0, cosine, 0.01, 1.0, 0.1, 0.04, 0.01)
        return Audit(0.5, [row], kl_se=0.1, n=64, n_weights=10)

    for cosine, shown in ((1.0123, "1.00 ± 0.04"), (-1.2, "-1.00 ± 0.04"), (0.987, "0.99 ± 0.04")):
        Console(width=200).print(report.table(audit(cosine), "x", None))
        assert shown in capsys.readouterr().out
        said = [
            line
            for line in report.legend({"sampled": audit(cosine)})
            if "so it can exceed 1. The table then prints 1" in line
        ]
        assert len(said) == (abs(cosine) > 1)


def test_wrong_input(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "adapter_config.json").write_text("{}")
    for words, message in (
        (["nowhere"], "nowhere does not exist. Give the directory of a run, or a recipe"),
        ([str(tmp_path)], "holds no adapter (adapter_config.json)"),
        ([str(tmp_path / "elsewhere")], "was not written by `trl-ext run`"),
        (
            ["--n", "10"],
            "`--n` is 10: give a whole number of at least 64. With fewer completions, gradients cannot be",
        ),
        (["--max_new_tokens", "0"], "give a whole number of at least 1"),
    ):
        assert main(["kl", *words]) == 2
        assert message in capsys.readouterr().err
