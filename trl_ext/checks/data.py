"""Rules about the dataset and about evaluation, before any data is read."""

import json
from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.data.files.names import is_data_file
from trl_ext.data.formats import CHOICES
from trl_ext.demo import EMBEDDED
from trl_ext.support import messages
from trl_ext.support.paths import absent, in_full, is_path


@problem("dataset_name", "datasets", recipe_only=True)
def dataset(s: Settings) -> Iterator[str]:
    if s["datasets"]:
        return
    if not s["dataset_name"] and not s.reported & {"dataset_name", "datasets"}:
        yield (
            "`dataset_name` is missing: give a Hub name (org/name), a local file (JSON, JSONL, CSV, Parquet) "
            "or folder, or 'embedded' for the preference set that comes with trl-ext."
        )
    elif end := dataset_path(s["dataset_name"] or EMBEDDED):
        yield f"{s.where('dataset_name')} {end}"


@problem("dataset_name", "datasets", "dataset_train_split")
def split(s: Settings) -> Iterator[str]:
    name, wanted = s["dataset_name"], s["dataset_train_split"]
    if s["datasets"] or not isinstance(name, str) or not Path(name).is_file():
        return
    if isinstance(wanted, str) and wanted.partition("[")[0].strip() != "train":
        yield (
            f"{s.where('dataset_train_split')} is {messages.shown_text(wanted)}, and {name} is one file. All of its rows "
            "are the split `train`: remove the setting."
        )


@problem(
    "dataset_name", "datasets", "eval_strategy", "eval_on_start", "eval_size", "dataset_test_split", "dataset_streaming"
)  # fmt: skip
def evaluation(s: Settings) -> Iterator[str]:
    """Evaluation needs rows: held out, or of a split that exists."""
    name, strategy = s["dataset_name"], s["eval_strategy"]
    is_off = strategy in (None, "no")
    if (is_off and not s["eval_on_start"]) or s["eval_size"] or s["datasets"] or not isinstance(name, str):
        return
    there, wanted = stored_splits(Path(name).expanduser()), s["dataset_test_split"] or "test"
    if there is not None and str(wanted).partition("[")[0].strip() not in there:
        splits = f"the split `{there[0]}` only" if len(there) == 1 else f"the splits {', '.join(there)}"
        remedy = (
            "Name another split (`dataset_test_split`). Rows cannot be held out of a stream."
            if s["dataset_streaming"]
            else "Set `eval_size` to hold rows out (`eval_size: 200`), or name another split (`dataset_test_split`)."
        )
        asked = f"{s.where('eval_on_start')} is true" if is_off else f"{s.where('eval_strategy')} is {strategy}"
        yield (
            f"{asked}, which evaluates on the split `{messages.shown_text(str(wanted))}`, and "
            f"{name} has {splits}. {remedy}"
        )


def stored_splits(path: Path) -> tuple[str, ...] | None:
    """The splits of a file, or of a folder written by `save_to_disk`; `None` where they are only known after loading."""
    if path.is_file() or (path / "state.json").is_file():
        return ("train",)
    try:
        return tuple(map(str, json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


@problem("datasets", "streaming", "dataset_streaming", "eval_size", "max_steps")
def stream(s: Settings) -> Iterator[str]:
    """The number of rows in a stream is not known."""
    key = "streaming" if s["datasets"] else "dataset_streaming"
    if not s[key]:
        return
    where = s.where(key)
    if s["eval_size"]:
        yield (
            f"{s.where('eval_size')} holds rows out of the training split, and the number of rows in a stream is not known. "
            f"Remove {where}, or evaluate on a separate split (`dataset_test_split`)."
        )
    if (s["max_steps"] or -1) < 1:
        yield (
            f"{where} is true, so the number of rows and of steps in an epoch is not known. Set the number of steps, for instance "
            "`max_steps: 1000`."
        )


@problem("dataset_columns")
def columns(s: Settings) -> Iterator[str]:
    mapping = s["dataset_columns"]
    if mapping and not all(isinstance(column, str) for column in mapping.values()):
        yield (
            f"{s.where('dataset_columns')} maps to a value that is not the name of a column: write "
            "`dataset_columns: {prompt: question, chosen: good, rejected: bad}`."
        )


@problem("dataset_format")
def dataset_format(s: Settings) -> Iterator[str]:
    if "dataset_format" in s and s["dataset_format"] not in CHOICES:
        meant = messages.one_of(s["dataset_format"], CHOICES)
        yield f"{s.where('dataset_format')} is {s['dataset_format']}: {meant}"


@problem("thoughts", "dataset_streaming", "datasets", "streaming", recipe_only=True)
def thoughts_of_a_stream(s: Settings) -> Iterator[str]:
    key = "streaming" if s["datasets"] else "dataset_streaming"
    if s["thoughts"] not in (None, "all") and s[key] and s.method.reads != "prompts":
        yield (
            f"{s.where('thoughts')} looks at the tokens of all rows before training, and {s.where(key)} reads rows during training. "
            "Remove one of them."
        )


@problem("thoughts", applies_to=lambda method: method.trains_scores, recipe_only=True)
def masked_thoughts_of_a_reward(s: Settings) -> Iterator[str]:
    if s["thoughts"] == "masked":
        yield (
            f"{s.where('thoughts')} is masked: `trainer: {s.method.name}` gives a whole sequence one score and has no loss of single tokens. "
            "Use `answer` to remove thoughts, or `all`."
        )


@problem("thoughts", "precompute_ref_log_probs", recipe_only=True)
def masked_thoughts_of_precomputed_values(s: Settings) -> Iterator[str]:
    if s["thoughts"] == "masked" and s["precompute_ref_log_probs"]:
        yield (
            f"{s.where('thoughts')} is masked, and {s.where('precompute_ref_log_probs')} sums the reference's log-probabilities over all tokens of "
            "a completion. Remove one of the two settings."
        )


@note("thoughts", recipe_only=True)
def thoughts_of_prompts(s: Settings) -> Iterator[str]:
    if s["thoughts"] not in (None, "all") and s.method.reads == "prompts":
        yield f"{s.where('thoughts')} has no effect: it changes completions of the data, and {s.method.title} reads only prompts."


@problem("dataset_pairs", "dataset_pair_margin", recipe_only=True)
def pairs(s: Settings) -> Iterator[str]:
    """Only preferences are made of completions that are compared."""
    given = [key for key in ("dataset_pairs", "dataset_pair_margin") if key in s]
    if given and not s.method.reads_preferences:
        yield (
            f"{s.named(*given)}: `trainer: {s.method.name}` compares no completions of the data, so this would have no effect. "
            "Remove it."
        )


def dataset_path(name: str) -> str | None:
    """The end of a sentence about a dataset's path that is not there; `None` if it may be a Hub name."""
    try:
        path = Path(in_full(name))
    except ValueError as error:
        return str(error)
    if name == EMBEDDED or path.exists():
        return None
    if is_data_file(name) or is_path(name):
        return f"is {name}, and {absent(path, 'file or folder')}"
    return None


@note("eval_size", "eval_strategy", "eval_on_start")
def held_out_and_unused(s: Settings) -> Iterator[str]:
    if s["eval_size"] and s["eval_strategy"] in (None, "no") and not s["eval_on_start"]:
        yield (
            f"{s.where('eval_size')} holds examples out, and the run does not evaluate on them without `eval_strategy`; "
            "`trl-ext eval` and `trl-ext compare` do."
        )


@note("datasets", "dataset_name", "dataset_revision", "dataset_config")
def local_dataset(s: Settings) -> Iterator[str]:
    """Only datasets on the Hub have revisions, and only some folders have configurations."""
    name = s["dataset_name"]
    path = Path(name).expanduser() if isinstance(name, str) and name else None
    if s["datasets"] or path is None or not (name == EMBEDDED or path.exists()):
        return
    if s["dataset_revision"]:
        yield f"{s.where('dataset_revision')} has no effect: {name} is not read from the Hub, and only the Hub has revisions."
    if s["dataset_config"] and not _has_configs(path):
        yield f"{s.where('dataset_config')} has no effect: {name} has no configurations to choose from."


def _has_configs(path: Path) -> bool:
    """Whether the files of a folder are grouped into configurations."""
    if stored_splits(path) is not None:
        return False
    texts = [path / "README.md", path / ".huggingface.yaml"]
    return any("config_name" in text.read_text(encoding="utf-8", errors="replace") for text in texts if text.is_file())
