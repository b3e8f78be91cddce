"""What goes wrong, in one table: what is given, and what is said. Nothing trains, nothing is left, nobody sees a traceback."""

import contextlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.conftest import pairs
from trl_ext import demo
from trl_ext.cli import main

GOOD = {
    "model_name_or_path": "embedded",
    "dataset_name": "pairs.jsonl",
    "output_dir": "out",
    "use_peft": True,
    "lora_r": 4,
    "lora_target_modules": "all-linear",
    "max_steps": 1,
    "max_length": 64,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "disable_tqdm": True,
}
LABELLED = [
    {"prompt": pair["prompt"], "completion": pair["chosen"], "label": i % 2 == 0} for i, pair in enumerate(pairs(8))
]


class Fault(NamedTuple):
    """Something wrong.

    Attributes:
        given: What is wrong, in words: the test's name.
        recipe: Settings over those of `GOOD`, `None` removing one; or the whole file.
        said: Parts of the one sentence that answers it: the value given, and what to do.
        prepare: Makes what the recipe needs in the working directory.
    """

    given: str
    recipe: dict[str, Any] | str | bytes
    said: tuple[str, ...]
    prepare: Callable[[], Any] = lambda: None


def lines(name: str, rows: list[Any]) -> Callable[[], Any]:
    return lambda: Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def text(name: str, content: str) -> Callable[[], Any]:
    return lambda: Path(name).write_text(content)


def relabelled(*labels: Any) -> list[dict]:
    return [row | {"label": labels[i % len(labels)]} for i, row in enumerate(LABELLED)]


def with_label(*labels: Any, said: tuple[str, ...], given: str) -> Fault:
    recipe = {"dataset_name": "labels.jsonl", "loss": "kto"}
    return Fault(given, recipe, ("labels.jsonl", *said), lines("labels.jsonl", relabelled(*labels)))


def model(name: str, change: Callable[[Path], Any]) -> Callable[[], Any]:
    """A copy of the embedded model, changed."""
    return lambda: change(Path(shutil.copytree(demo.MODEL, name)))


def adapter(name: str, change: Callable[[Path], Any] = lambda folder: None) -> Callable[[], Any]:
    """An adapter of rank 4 on the embedded model, changed."""

    def prepare() -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(demo.MODEL)
        get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(name)
        change(Path(name))

    return prepare


def settings(file: str, **changes: Any) -> Callable[[Path], Any]:
    """Changes entries of a JSON file in a folder; `None` removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))

    return change


def halved(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(
        (folder / file).read_bytes()[: (folder / file).stat().st_size // 2]
    )


def larger_vocabulary(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{i}" for i in range(100)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


def in_file(line: str) -> str:
    return yaml.safe_dump(GOOD, sort_keys=False) + line


# Told from the recipe alone, before anything heavy is imported.
IN_THE_RECIPE = [
    Fault("an unknown key", {"lora_rnak": 8}, ("`lora_rnak` (line ", "did you mean `lora_r`")),
    Fault("an unknown key like no other", {"zzz": 8}, ("`zzz` (line ", "check its spelling, or remove it")),
    Fault("a key twice", in_file("max_steps: 2\n"), ("`max_steps` is given twice, on lines 7 and 12", "keep one")),
    Fault("a negative beta", {"beta": -1}, ("`beta` (line ", "is -1", "a number greater than 0")),
    Fault("a beta of 0", {"beta": 0}, ("is 0, and dpo needs a number greater than 0",)),
    Fault("IPO with a beta of 0", {"loss": "ipo", "beta": 0}, ("is 0, and ipo needs a number greater than 0",)),
    Fault("a loss there is not", {"loss": "dop"}, ("no loss 'dop'", "Did you mean dpo")),
    Fault("TRL's name of a loss there is not", {"loss_type": "sigmod"}, ("no loss 'sigmod'", "sigmoid")),
    Fault(
        "a hyperparameter the loss does not read",
        {"loss": "ipo", "label_smoothing": 0.1},
        ("`label_smoothing` (line ", "is not read by the loss ipo", "choose a loss that reads it"),
    ),
    Fault("smoothing half of the labels", {"label_smoothing": 0.5}, ("is 0.5", "below 0.5")),
    Fault("a learning rate that is no number", {"learning_rate": "fast"}, ("is 'fast': give a number",)),
    Fault("a learning rate of 0", {"learning_rate": 0}, ("is 0", "greater than 0")),
    Fault("a learning rate of nan", {"learning_rate": float("nan")}, ("is nan", "greater than 0")),
    Fault("a length of 0", {"max_length": 0}, ("is 0", "at least 1")),
    Fault("a batch of 1.5", {"per_device_train_batch_size": 1.5}, ("is 1.5: give a whole number",)),
    Fault("an optimizer there is not", {"optim": "adamw_8bits"}, ("adamw_8bits", "did you mean adamw_8bit")),
    Fault("warmup_ratio", {"warmup_ratio": 0.1}, ("`warmup_ratio` (line ", "Write `warmup_steps: 0.1`")),
    Fault("torch_dtype", {"torch_dtype": "bfloat16"}, ("`torch_dtype` (line ", "write `dtype: bfloat16`")),
    Fault(
        "max_prompt_length",
        {"max_prompt_length": 512},
        ("`max_prompt_length` (line ", "`max_length` limits", "Remove it"),
    ),
    Fault(
        "dataset_mixer",
        {"dataset_name": None, "dataset_mixer": {"org/a": 0.5, "org/b": 1}},
        (
            "`dataset_mixer` (line ",
            "Write `datasets: [{path: org/a, split: train, share: 0.5}, {path: org/b, split: train}]`",
        ),
    ),
    Fault("evaluation_strategy", {"evaluation_strategy": "no"}, ("write `eval_strategy: ",)),
    Fault("rpo_alpha", {"rpo_alpha": 0.2}, ("this adds the SFT loss. Write `loss: {dpo: 1, sft: 0.2}`",)),
    Fault("DeepSpeed", {"deepspeed": "zero3.json"}, ("`deepspeed` (line ", "accelerate launch")),
    Fault("4 and 8 bits", {"load_in_4bit": True, "load_in_8bit": True}, ("are both true: keep one",)),
    Fault(
        "4 bits without an adapter",
        {"load_in_4bit": True, "use_peft": False, "lora_r": None, "lora_target_modules": None},
        ("nothing would be trained", "add `use_peft: true`"),
    ),
    Fault("LoRA settings without LoRA", {"use_peft": None}, ("would be ignored", "add `use_peft: true`")),
    Fault("LoRA on the head", {"lora_target_modules": ["q_proj", "lm_head"]}, ("includes lm_head", "Remove lm_head")),
    Fault("bf16 and fp16", {"bf16": True, "fp16": True}, ("are both true: keep bf16",)),
    Fault("a model that is not there", {"model_name_or_path": "./modle"}, ("is ./modle", "check the path")),
    Fault("a model file", {"model_name_or_path": "pairs.jsonl"}, ("is the file pairs.jsonl", "name the folder")),
    Fault("no model", {"model_name_or_path": None}, ("`model_name_or_path` is missing", "'embedded'")),
    Fault("no data", {"dataset_name": None}, ("`dataset_name` is missing", "'embedded'")),
    Fault("data that is not there", {"dataset_name": "pears.jsonl"}, ("did you mean pairs.jsonl?",)),
    Fault(
        "columns of other names",
        {"dataset_name": "other.jsonl"},
        (
            "other.jsonl has the columns question, good, bad, which are not recognised",
            "dataset_columns:",
            "chosen: good",
        ),
        lines("other.jsonl", [{"question": p["prompt"], "good": p["chosen"], "bad": p["rejected"]} for p in pairs(4)]),
    ),
    Fault(
        "a column that is not there",
        {"dataset_columns": {"prompt": "question"}},
        ("question", "prompt, chosen, rejected"),
    ),
    Fault(
        "labels for a loss on pairs",
        {"dataset_name": "labels.jsonl"},
        ("has single completions with labels", "Choose a loss on labelled completions (`--loss kto`)"),
        lines("labels.jsonl", LABELLED),
    ),
    Fault(
        "a checkpoint that is not there",
        {"resume_from_checkpoint": "out/checkpoint-9"},
        ("is out/checkpoint-9", "check the path"),
    ),
    Fault("resuming nothing", {"resume_from_checkpoint": True}, ("out", "no checkpoint", "Start without")),
    Fault(
        "an output directory that is a file",
        {"output_dir": "pairs.jsonl"},
        ("is pairs.jsonl", "is a file: name a folder"),
    ),
    Fault("an output directory below a file", {"output_dir": "pairs.jsonl/run"}, ("is a file: name a folder",)),
    Fault(
        "PPO without a reward", {"trainer": "ppo", "max_length": None}, ("no source of reward", "Add `reward_funcs`")
    ),
    Fault("an empty file", "", ("is empty", "a model and a dataset")),
    Fault("a list", "- a\n- b\n", ("has no `key: value` lines",)),
    Fault("bytes", b"\x89PNG\xff\x00", ("is not a text file in UTF-8", "Give a recipe in YAML")),
    Fault("tabs", "a:\n\tb: 1\n", ("line 2 is not YAML", "Indent with spaces")),
    Fault("an unclosed bracket", "loss: [dpo\n", ("is not YAML", "one `key: value` per line")),
]

# Told once the data are opened or the model's files looked at, before weights are loaded.
IN_DATA_OR_MODEL = [
    Fault(
        "a split that is not there",
        {"dataset_train_split": "trian"},
        ("trian", "All of its rows are the split `train`"),
    ),
    Fault("no rows", {"dataset_name": "none.jsonl"}, ("none.jsonl", "it is empty (0 bytes)"), text("none.jsonl", "")),
    Fault("blank lines", {"dataset_name": "none.jsonl"}, ("none.jsonl", "holds no rows"), text("none.jsonl", "\n\n")),
    Fault(
        "a heading alone",
        {"dataset_name": "none.csv"},
        ("none.csv", "it has a header and no rows"),
        text("none.csv", "prompt,chosen,rejected\n"),
    ),
    Fault(
        "a line that is not JSON",
        {"dataset_name": "torn.jsonl"},
        ("torn.jsonl", "line 9 is not JSON"),
        lambda: Path("torn.jsonl").write_text(Path("pairs.jsonl").read_text() + '{"prompt": "a'),
    ),
    Fault(
        "completions that are null",
        {"dataset_name": "null.jsonl"},
        ("null.jsonl", "none of 8 rows", "missing (null)", "dataset_columns"),
        lines("null.jsonl", [pair | {"rejected": None} for pair in pairs(8)]),
    ),
    Fault(
        "answers that are the same",
        {"dataset_name": "same.jsonl"},
        ("same.jsonl", "are identical in all 8 pairs", "dataset_columns"),
        lines("same.jsonl", [pair | {"rejected": pair["chosen"]} for pair in pairs(8)]),
    ),
    Fault(
        "answers that are empty",
        {"dataset_name": "empty.jsonl"},
        ("empty.jsonl", "all 8 pairs", "no preference can be learned"),
        lines("empty.jsonl", [pair | {"chosen": "", "rejected": ""} for pair in pairs(8)]),
    ),
    Fault(
        "answers that differ only past max_length",
        {"dataset_name": "long.jsonl"},
        ("are identical in all 8 pairs once they are cut to 64 tokens", "Raise `max_length`"),
        lines("long.jsonl", [pair | {"chosen": " a" * 80 + " b", "rejected": " a" * 80 + " c"} for pair in pairs(8)]),
    ),
    Fault("prompts longer than max_length", {"max_length": 2}, ("every prompt has 2 tokens", "Raise `max_length`")),
    with_label(
        "yep", "nope", given="labels in unknown words", said=("'nope', 'yep'", "Allowed labels are true/false")
    ),
    with_label(
        True, given="one label only", said=("all 8 completions are desirable", "Add completions with the other label")
    ),
    Fault("data nobody has", {"dataset_name": "org/nowhere"}, ("org/nowhere", "Give a path, or unset it")),
    Fault(
        "a model nobody has",
        {"model_name_or_path": "org/nowhere"},
        ("org/nowhere is neither a local folder", "HF_HUB_OFFLINE is set. Unset it"),
    ),
    Fault(
        "one LoRA target of two misspelt",
        {"lora_target_modules": ["q_proj", "v_porj"]},
        ("names v_porj", "did you mean v_proj?", "k_proj, o_proj, q_proj"),
    ),
    Fault(
        "flash-attn that is not installed",
        {"attn_implementation": "flash_attention_2"},
        ("is flash_attention_2, which is not installed here", "or remove the setting"),
    ),
    Fault(
        "bf16 without a GPU",
        {"bf16": True},
        ("`bf16` (line ", "is true, but there is no GPU", "Remove it to train in float32"),
    ),
    Fault(
        "a tokenizer without an end",
        {"model_name_or_path": "endless"},
        ("endless has no end-of-sequence token", "tokenizer_config.json"),
        model("endless", settings("tokenizer_config.json", eos_token=None)),
    ),
    Fault(
        "a tokenizer larger than the embeddings",
        {"model_name_or_path": "large"},
        ("1 token beyond the model's 960 embeddings", "'[PAD]'", "resize_token_embeddings"),
        model("large", larger_vocabulary),
    ),
    Fault(
        "conversations without a chat template",
        {"model_name_or_path": "plain", "dataset_name": "embedded"},
        ("plain has no chat template", "Choose an instruction-tuned model"),
        model("plain", lambda folder: (folder / "chat_template.jinja").unlink()),
    ),
    Fault(
        "half a model",
        {"model_name_or_path": "half"},
        ("half/model.safetensors holds", "Copy, download or save it again"),
        model("half", halved("model.safetensors")),
    ),
    Fault(
        "a pointer of Git LFS",
        {"model_name_or_path": "pointer"},
        ("is a Git LFS pointer", "git lfs pull"),
        model(
            "pointer",
            lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
        ),
    ),
    Fault(
        "a model without weights",
        {"model_name_or_path": "light"},
        ("light holds a config.json but no weights", "save the model again"),
        model("light", lambda folder: (folder / "model.safetensors").unlink()),
    ),
    Fault(
        "a model without a tokenizer",
        {"model_name_or_path": "mute"},
        ("mute holds a model but no tokenizer",),
        model("mute", lambda folder: [path.unlink() for path in folder.glob("tokenizer*")]),
    ),
    Fault(
        "a config.json that is none",
        {"model_name_or_path": "torn"},
        ("torn/config.json cannot be read",),
        model("torn", halved("config.json")),
    ),
    Fault(
        "half an adapter",
        {"model_name_or_path": "half"},
        ("half/adapter_model.safetensors holds", "Copy, download or save it again"),
        adapter("half", halved("adapter_model.safetensors")),
    ),
    Fault(
        "an adapter without weights",
        {"model_name_or_path": "light"},
        ("no adapter_model.safetensors", "train the adapter again"),
        adapter("light", lambda folder: (folder / "adapter_model.safetensors").unlink()),
    ),
    Fault(
        "an adapter whose base is gone",
        {"model_name_or_path": "orphan"},
        ("was trained on ./gone", "`base_model_name_or_path`"),
        adapter("orphan", settings("adapter_config.json", base_model_name_or_path="./gone")),
    ),
    Fault(
        "an adapter that names no base",
        {"model_name_or_path": "orphan"},
        ("does not name its base model", "`base_model_name_or_path`"),
        adapter("orphan", settings("adapter_config.json", base_model_name_or_path=None)),
    ),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with eight good pairs in it."""
    monkeypatch.chdir(tmp_path)
    lines("pairs.jsonl", pairs(8))()
    return tmp_path


def write(recipe: dict[str, Any] | str | bytes) -> list[str]:
    """Words that run the recipe."""
    if isinstance(recipe, dict):
        values = {key: value for key, value in (GOOD | recipe).items() if value is not None}
        recipe = yaml.safe_dump(values, sort_keys=False)
    Path("r.yaml").write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    return ["run", "r.yaml"]


@pytest.mark.parametrize("fault", IN_THE_RECIPE + IN_DATA_OR_MODEL, ids=lambda fault: fault.given)
def test_a_fault_is_answered_by_one_sentence_before_weights_are_loaded_and_leaves_nothing(
    fault, capfd, folder, monkeypatch
):
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # as a run has it, which sets it before the import
    fault.prepare()
    read_weights = "transformers.modeling_utils.PreTrainedModel._load_pretrained_model"
    monkeypatch.setattr(read_weights, lambda *_, **__: pytest.fail("weights were loaded"))
    words = write(fault.recipe)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capfd.readouterr()
    assert main(words) == 2
    printed = capfd.readouterr().err
    _, is_said, said = printed.partition("trl-ext: ")
    assert is_said and "Traceback" not in printed and " problems" not in said, printed
    assert all(part in said for part in fault.said), said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_a_recipe_tells_is_said_before_torch_is_imported(folder):
    """All of them in one process, which would take seconds for the import alone."""
    words = []
    for number, fault in enumerate(IN_THE_RECIPE):
        place = folder / str(number)
        place.mkdir()
        with contextlib.chdir(place):
            lines("pairs.jsonl", pairs(8))()
            fault.prepare()
            write(fault.recipe)
        words.append(str(place))
    code = (
        "import os, sys\n"
        "from trl_ext.cli import main\n"
        "for place in sys.argv[1:]:\n"
        "    os.chdir(place)\n"
        "    assert main(['run', 'r.yaml']) == 2, place\n"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr.count("trl-ext: ") == len(words)


@pytest.mark.parametrize(
    ("recipe", "said", "prepare"),
    [
        pytest.param({"learning_rate": "5e-6"}, "5e-06", lambda: None, id="a learning rate in quotes"),
        pytest.param(
            {"loss": "kto", "dataset_name": "labels.jsonl"},
            "Labels: 4 desirable, 4 undesirable",
            lines("labels.jsonl", relabelled(1, -1)),
            id="labels of 1 and -1",
        ),
        pytest.param(
            {"model_name_or_path": "unpadded"},
            "= 0.6931, the known value",
            model("unpadded", settings("tokenizer_config.json", pad_token=None)),
            id="a tokenizer without padding",
        ),
        pytest.param(
            {"model_name_or_path": "first", "lora_r": 8},
            "is 8 and has no effect: training continues the adapter in first, which has 4",
            adapter("first"),
            id="another rank than the adapter's",
        ),
        pytest.param(
            {"dataset_name": "null.jsonl"},
            "1 of 9 rows dropped: a required value is missing (null)",
            lines("null.jsonl", [*pairs(8), pairs(1)[0] | {"rejected": None}]),
            id="one completion that is null",
        ),
    ],
)
def test_what_trl_stumbles_over_trains_here(recipe, said, prepare, capsys):
    prepare()
    assert main(write(recipe | {"report_to": "none", "save_strategy": "no"})) == 0
    resolved = Path("out", "recipe.resolved.yaml").read_text()
    assert said in capsys.readouterr().out + resolved.replace("5.0e-06", "5e-06")


@pytest.fixture(scope="module")
def half_done(tmp_path_factory) -> Path:
    """A folder with a run of two steps and the checkpoint of its first."""
    place = tmp_path_factory.mktemp("half-done")
    with contextlib.chdir(place):
        lines("pairs.jsonl", pairs(8))()
        assert main(write({"max_steps": 2, "save_steps": 1})) == 0
    return place


@pytest.mark.parametrize(
    ("change", "recipe", "said"),
    [
        pytest.param(
            None, {"beta": 0.3}, ("`beta` 0.1 → 0.3", "Resume with the original settings"), id="another beta"
        ),
        pytest.param(
            None, {"loss": "ipo"}, ("loss", "dpo → ipo", "Resume with the original settings"), id="another loss"
        ),
        pytest.param(None, {"lora_r": 8}, ("`lora_r` 4 → 8", "Resume with the original settings"), id="another rank"),
        pytest.param(
            lambda checkpoint: (checkpoint / "optimizer.pt").unlink(),
            {},
            ("is incomplete: optimizer.pt is missing", "Resume out/checkpoint-2 instead"),
            id="no optimizer state",
        ),
        pytest.param(
            halved("adapter_model.safetensors"),
            {},
            ("is incomplete: adapter_model.safetensors", "Resume out/checkpoint-2 instead"),
            id="half",
        ),
    ],
)
def test_a_resume_goes_on_with_the_same_run_or_not_at_all(change, recipe, said, half_done, capsys):
    shutil.copytree(half_done / "out", "out")
    checkpoint = Path("out", "checkpoint-1")
    if change is not None:
        change(checkpoint)
    assert main(write({"max_steps": 2, "save_steps": 1, "resume_from_checkpoint": str(checkpoint)} | recipe)) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed and all(part in printed for part in said), printed


def test_a_loss_that_is_lost_stops_the_run(capsys):
    assert main(write({"lora_alpha": 10**18, "max_steps": 20, "save_strategy": "no"})) == 2
    said = capsys.readouterr().err
    assert "is nan" in said and "Lower `learning_rate`" in said and "Traceback" not in said


def test_after_a_fault_the_same_directory_takes_the_right_recipe(capsys):
    """The data are found useless only by the tokenizer: the latest fault there is."""
    assert main(write({"max_length": 2})) == 2
    assert main(write({"save_strategy": "no"})) == 0
    assert Path("out", "adapter_model.safetensors").exists()
