"""`trl-ext init`: what is written passes `validate`, fits the data, and never replaces a file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import pairs
from trl_ext import recipe
from trl_ext.cli import main

PROMPTS = [{"prompt": row["prompt"]} for row in pairs(40)]
CHATS = [
    {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]}
    for row in pairs(40)
]
COMPLETIONS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs(40)]
LABELLED = [row | {"label": i % 2 == 0} for i, row in enumerate(COMPLETIONS)]
TALKS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        **{name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")},
    }
    for row in pairs(40)
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict]) -> str:
    path = Path(name)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.mark.parametrize(
    ("rows", "flags", "expected"),
    [
        (pairs(40), [], {"loss": "dpo", "beta": 0.1}),
        (pairs(40), ["--loss", "simpo"], {"loss": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.25}),
        (pairs(40), ["--loss", "kto"], {"loss": "kto"}),
        (pairs(40), ["--loss", "{dpo: 1, sft: 0.1}"], {"loss": {"dpo": 1, "sft": 0.1}}),
        (pairs(40), ["--loss_type", "ipo"], {"loss_type": "ipo"}),
        (pairs(40), ["--trainer", "reward"], {"trainer": "reward"}),
        (pairs(40), ["--trainer", "sft"], {"trainer": "sft"}),
        (TALKS, [], {"loss": "dpo"}),
        (LABELLED, [], {"loss": "kto"}),
        (CHATS, [], {"trainer": "sft"}),
        (COMPLETIONS, [], {"trainer": "sft"}),
        ([{"instruction": r["prompt"], "input": "", "output": r["chosen"]} for r in pairs(40)], [], {"trainer": "sft"}),
        ([{"question": r["prompt"], "answer": r["chosen"]} for r in pairs(40)], [], {"trainer": "sft"}),
        ([{"text": row["prompt"]} for row in pairs(40)], [], {"trainer": "sft"}),
        (PROMPTS, ["--reward_funcs", "sentiment"], {"trainer": "ppo", "reward_funcs": ["sentiment"]}),
        (PROMPTS, ["--reward_funcs", "sentiment", "--loss", "ipo"], {"trainer": "online", "loss": "ipo"}),
        (pairs(40), ["--reward_funcs", "sentiment"], {"trainer": "ppo"}),
        ([{"q": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in pairs(40)],
         ["--dataset_columns", "{prompt: q, chosen: good, rejected: bad}"], {"loss": "dpo"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else " ".join(word for word in value if isinstance(word, str)),
)  # fmt: skip
def test_what_is_written_is_valid_and_says_what_is_trained(folder, capsys, rows, flags, expected):
    data = write("rows.jsonl", rows)
    assert main(["init", "embedded", data, "--output", "mine.yaml", *flags]) == 0, capsys.readouterr().err
    values = yaml.safe_load(Path("mine.yaml").read_text())
    assert {key: values[key] for key in expected} == expected
    assert (values["model_name_or_path"], values["dataset_name"]) == ("embedded", "rows.jsonl")
    assert values["output_dir"] == "runs/mine"
    loaded = recipe.load("mine.yaml")
    capsys.readouterr()
    assert main(["validate", "mine.yaml"]) == 0
    assert "mine.yaml is valid" in capsys.readouterr().out
    assert loaded.notes == []
    assert sorted(path.name for path in folder.iterdir()) == ["mine.yaml", "rows.jsonl"]


def test_a_csv_of_labels(folder):
    data = write("rows.csv", LABELLED)
    assert main(["init", "embedded", data]) == 0
    assert recipe.load("embedded-kto.yaml").loss == "kto"


def lengths(tiny_model: str, rows: list[dict]) -> np.ndarray:
    """Tokens of the longer completion with its prompt: one per word, and the end token, which the tokenizer splits off."""
    return np.array(
        [
            len(row["prompt"].split()) + max(len(row[name].split()) for name in ("chosen", "rejected")) + 1
            for row in rows
        ]
    )


def test_lengths_are_those_of_the_data(folder, tiny_model):
    rows = pairs(60, longest=200)
    assert main(["init", tiny_model, write("rows.jsonl", rows), "--output", "mine"]) == 0
    text, values = Path("mine.yaml").read_text(), recipe.load("mine.yaml").values
    counted = lengths(tiny_model, rows)
    assert f"longest {counted.max():,}." in " ".join(text.replace("\n#", "").split())
    assert values["max_length"] == 64 * -(-counted.max() // 64)
    assert "Every sequence fits." in " ".join(text.replace("\n#", "").split())


def test_a_few_long_rows_do_not_make_all_rows_long(folder, tiny_model):
    rows = pairs(300, longest=30)
    rows[7]["chosen"] = " the" * 400
    assert main(["init", tiny_model, write("rows.jsonl", rows), "--output", "mine"]) == 0
    assert recipe.load("mine.yaml").get("max_length") == 128
    assert "0.3% of the pairs are longer than `max_length` 128 and lose their end." in Path(
        "mine.yaml"
    ).read_text().replace("\n# ", " ")


def test_no_length_beyond_the_positions_of_the_model(folder, tiny_model):
    rows = [row | {"chosen": " the" * 900} for row in pairs(40)]
    assert main(["init", tiny_model, write("rows.jsonl", rows), "--output", "mine"]) == 0
    assert recipe.load("mine.yaml").get("max_length") == 512


@pytest.mark.parametrize(
    ("count", "per_step", "epochs", "held_out"), [(8, 4, 3, None), (100, 4, 3, 5), (2000, 32, 1, 100)]
)
def test_steps_suit_the_number_of_rows(folder, count, per_step, epochs, held_out):
    assert main(["init", "embedded", write("rows.jsonl", pairs(count)), "--output", "mine"]) == 0
    loaded = recipe.load("mine.yaml")
    assert loaded.get("per_device_train_batch_size") * loaded.get("gradient_accumulation_steps") == per_step
    assert (loaded.get("num_train_epochs"), loaded.get("eval_size")) == (epochs, held_out)
    assert bool(loaded.get("eval_strategy")) == bool(held_out)


def test_memory_is_planned_for_the_card(folder, capsys):
    from trl_ext.planner import plan

    data = write("rows.jsonl", pairs(40))
    assert main(["init", "embedded", data, "--card", "4080", "--output", "mine"]) == 0
    text, loaded = Path("mine.yaml").read_text(), recipe.load("mine.yaml")
    planned = plan(loaded, vram=16)
    assert "# Hardware: RTX 4080 (16 GB)." in text
    assert f"Planned peak: {planned.peak / 2**30:.1f} GiB" in text
    assert loaded.get("row_tokens") == planned.row_tokens
    assert main(["init", "embedded", data, "--card", "486", "--output", "other"]) == 2
    assert "Known are RTX 3090, RTX 4090" in capsys.readouterr().err
    assert main(["init", "embedded", data, "--card", "4090", "--vram", "24", "--output", "other"]) == 2
    assert "Keep one of them" in capsys.readouterr().err
    assert not Path("other.yaml").exists()


def test_keys_that_are_given_are_kept(folder):
    data = write("rows.jsonl", pairs(40))
    flags = [
        "--lora_r",
        "64",
        "--max_length",
        "96",
        "--learning_rate",
        "2e-5",
        "--weight_decay",
        "0.01",
        "--beta",
        "0.3",
    ]
    assert main(["init", "embedded", data, "--output", "mine", *flags]) == 0
    values = recipe.load("mine.yaml").values
    assert (values["lora_r"], values["lora_alpha"], values["max_length"]) == (64, 32, 96)
    assert (values["learning_rate"], values["weight_decay"], values["beta"]) == (2e-5, 0.01, 0.3)


def test_an_adapter_is_continued(folder, tiny_model):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(task_type="CAUSAL_LM"))
    adapter.save_pretrained("adapter")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained("adapter")
    assert main(["init", "adapter", write("rows.jsonl", pairs(40)), "--output", "mine"]) == 0
    loaded = recipe.load("mine.yaml")
    assert not any(key.startswith("lora_") or key == "use_peft" for key in loaded.values) and loaded.notes == []


def test_an_existing_file_is_kept(folder, capsys):
    data = write("rows.jsonl", pairs(40))
    for words, file in ((["--output", "mine.yaml"], "mine.yaml"), ([], "embedded-dpo.yaml")):
        Path(file).write_text("precious")
        assert main(["init", "embedded", data, *words]) == 2
        assert f"{file} exists, and `trl-ext init` overwrites nothing." in capsys.readouterr().err
        assert Path(file).read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Give a model and data: `trl-ext init Qwen/Qwen3-4B pairs.jsonl`."),
        (["embedded"], "Give a model and data"),
        (["embedded", "nowhere.jsonl"], "There is no file or directory nowhere.jsonl"),
        (["./nowhere", "rows.jsonl"], "nowhere"),
        (["embedded", "prompts.jsonl"], "prompts.jsonl holds prompts and no completions."),
        (["embedded", "numbers.jsonl"], "numbers.jsonl has the columns a, b, which are not recognised."),
        (["embedded", "capitals.jsonl"], 'prompt: Question\n  chosen: "good answer"'),
        (["embedded", "empty.jsonl"], "empty.jsonl"),
        (["embedded", "rows.jsonl", "--lora_rank", "8"], "`--lora_rank` is not a setting here: write `lora_r: 8`."),
        (["embedded", "rows.jsonl", "--loss", "dpoo"], "Did you mean dpo"),
        (["embedded", "rows.jsonl", "--dataset_name", "x"], "`--dataset_name` is given twice"),
        (["embedded", "rows.jsonl", "--vram", "0.1"], "No recipe for this model fits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_writes_nothing(folder, capsys, words, sentence):
    write("rows.jsonl", pairs(40))
    write("prompts.jsonl", PROMPTS)
    write("numbers.jsonl", [{"a": 1, "b": 2}])
    capitals = {"Question": "How was Rome?", "good answer": "Nice and warm.", "bad answer": "Bad."}
    write("capitals.jsonl", [capitals, capitals | {"Question": "How was Paris?", "good answer": "Lovely food."}])
    write("empty.jsonl", [])
    assert main(["init", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(folder.glob("*.yaml"))


def test_the_recipe_runs(folder, tiny_model):
    assert main(["init", tiny_model, write("rows.jsonl", pairs(24)), "--output", "mine"]) == 0
    assert main(["run", "mine", "--max_steps", "2"]) == 0
    assert (folder / "runs" / "mine" / "adapter_model.safetensors").exists()


@pytest.fixture
def eight_billion(tiny_model, tmp_path) -> str:
    """The configuration of Llama 3.1 8B with the tokenizer of the tiny model; no weights are read."""
    import shutil

    from trl_ext.planner.models import MODELS

    folder = tmp_path / "eight"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").write_text(json.dumps(MODELS["meta-llama/Llama-3.1-8B"]))
    (folder / "model.safetensors").unlink()  # of a smaller model
    return str(folder)


@pytest.mark.parametrize(("card", "is_4bit"), [("4090", True), ("5090", True), (None, False)])
def test_a_large_model_is_quantised_where_the_card_needs_it(folder, eight_billion, card, is_4bit):
    words = ["--vram", "192"] if card is None else ["--card", card]
    assert main(["init", eight_billion, write("rows.jsonl", pairs(2000)), "--output", "mine", *words]) == 0
    loaded = recipe.load("mine.yaml")
    assert bool(loaded.get("load_in_4bit")) == is_4bit
    assert loaded.get("learning_rate") == 5e-6


def test_the_card_limits_length_and_micro_batch(folder, eight_billion):
    from trl_ext.planner import plan

    rows = [row | {"chosen": " the" * 9000} for row in pairs(100)]
    data = write("rows.jsonl", rows)
    assert main(["init", eight_billion, data, "--vram", "12", "--output", "short"]) == 0
    planned = plan(recipe.load("short.yaml"), vram=12)
    assert planned.fits and recipe.load("short.yaml").get("max_length") < 9000
    assert "Model or card allow no more." in " ".join(Path("short.yaml").read_text().replace("\n#", "").split())
    assert main(["init", eight_billion, data, "--trainer", "sft", "--vram", "12", "--output", "sft"]) == 0
    loaded = recipe.load("sft.yaml")
    twice = {"per_device_train_batch_size": 2 * loaded.get("per_device_train_batch_size")}
    assert plan(loaded, vram=12).fits and not plan(recipe.load("sft.yaml", twice), vram=12).fits


def test_only_the_assistant_is_imitated_where_the_template_can_tell(folder, tiny_model):
    import shutil

    marked = (
        "{% for m in messages %}{{ m.role }} {% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }} </s> "
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    plain = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    for name, template, expected in (("marked", marked, True), ("plain", plain, None)):
        shutil.copytree(tiny_model, name)
        Path(name, "chat_template.jinja").write_text(template)
        assert main(["init", name, write("chats.jsonl", CHATS), "--output", f"of-{name}"]) == 0
        assert recipe.load(f"of-{name}.yaml").get("assistant_only_loss") is expected
