"""Read the data of a LLaMA-Factory file: datasets, their mixture, and what is held out."""

from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.dataset_info import FILE, Source, missing, sources
from trl_ext.foreign.llama_factory.file_values import UNSET, lost, names, number, stage, wrong
from trl_ext.foreign.meaning import Meaning
from trl_ext.support.counts import are, count

REPEATED = "interleave_over"
SHARED = "interleave_under"


def _dataset(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    found = sources(value, values)
    if not found:
        return UNSET
    settings = _single(found[0], values) if len(found) == 1 and not found[0].folder else _mixture(found, values)
    named = next(iter(settings))
    data = Meaning({named: settings.pop(named)}, *_remarks(found, values))
    return tuple(meaning for meaning in (data, Meaning(settings), _trained_turns(found, values)) if meaning.settings)


def _single(source: Source, values: Values) -> dict[str, Any]:
    split = _split(source, values)
    return (
        {"dataset_name": source.path or source.name}
        | ({"dataset_config": source.config} if source.config else {})
        | ({"dataset_train_split": split} if split != "train" else {})
        | ({"dataset_columns": dict(source.columns)} if source.columns else {})
        | ({"dataset_streaming": True} if values.get("streaming") else {})
    )


def _mixture(found: list[Source], values: Values) -> dict[str, Any]:
    fractions = _fractions(len(found), values)
    entries = [
        _entry(source, values) | ({"fraction": share} if share is not None else {})
        for source, share in zip(found, fractions, strict=True)
    ]
    columns = found[0].columns if all(source.columns == found[0].columns for source in found) else {}
    return (
        {"datasets": entries}
        | ({"dataset_columns": dict(columns)} if columns else {})
        | ({"streaming": True} if values.get("streaming") else {})
    )


def _entry(source: Source, values: Values) -> dict[str, Any]:
    """One dataset of a mixture."""
    return (
        {"path": source.path or source.name}
        | ({"name": source.config} if source.config else {})
        | ({"data_dir": source.folder} if source.folder else {})
        | {"split": _split(source, values, in_mixture=True)}
    )


def _split(source: Source, values: Values, *, in_mixture: bool = False) -> str:
    """The split, with the rows that are taken from its beginning. `max_train_samples` counts rows after some are held out."""
    limits = [source.samples, values.get("max_samples") if in_mixture or values.get("val_size") else None]
    rows = [int(limit) for value in limits if (limit := number(value)) is not None and limit >= 1]
    return f"{source.split}[:{min(rows)}]" if rows and not values.get("streaming") else source.split


def _fractions(count: int, values: Values) -> list[float | None]:
    """Shares of the mixture, where LLaMA-Factory draws rows until a dataset is used up."""
    if values.get("mix_strategy") != SHARED:
        return [None] * count
    shares = [number(share) for share in names(values.get("interleave_probs"))]
    if len(shares) == count and all(shares):
        return shares
    return [round(1 / count, 4)] * count


def _trained_turns(found: list[Source], values: Values) -> Meaning:
    """Supervised fine-tuning on conversations learns from the assistant's turns, and not from the user's."""
    is_chat = any(source.is_conversation for source in found)
    if stage(values) == "sft" and is_chat and not values.get("train_on_prompt"):
        return Meaning({"assistant_only_loss": True}, "LLaMA-Factory does not train on the user's turns")
    return Meaning()


def _remarks(found: list[Source], values: Values) -> tuple[str, str]:
    """Reason and changes."""
    unknown = [source.name for source in found if not source.path]
    reasons, changes = [], []
    if unknown:
        its, them = ("is a name", "it") if len(unknown) == 1 else ("are names", "them")
        reasons.append(
            f"`{'`, `'.join(unknown)}` {its} in LLaMA-Factory's {FILE}, {missing(values)}. Replace {them} by a file or a name on the Hub"
        )
        if stage(values) == "sft":
            reasons.append("Add `assistant_only_loss: true` if rows are conversations")
    if (
        len({tuple(source.columns.items()) for source in found}) > 1
        or len({source.is_conversation for source in found}) > 1
    ):
        reasons.append(
            "these datasets have different columns, and those of a mixture must be the same. Bring the files into one form first"
        )
    if any(source.samples for source in found):
        changes.append("the first rows are taken, not random ones (`num_samples`)")
    if any(source.has_history for source in found) and stage(values) == "sft":
        changes.append("the replies in `history` are not trained on")
    if values.get("mix_strategy") == REPEATED and len(found) > 1:
        changes.append("every dataset is used once; LLaMA-Factory repeats the smaller ones")
    return ". ".join(reasons), ", and ".join(changes)


def _in_dataset(why: str) -> Reader:
    """A key that is written with `dataset`."""
    return lambda value, values: Meaning(reason=why) if values.get("dataset") else UNSET


def _interleaved(value: Any, values: Values) -> Meaning:
    found, shares = sources(values.get("dataset"), values), [number(share) for share in names(value)]
    if value is None or values.get("mix_strategy") != SHARED:
        return _in_dataset("it is part of `datasets`")(value, values)
    if len(shares) != len(found) or not all(shares):
        return wrong(
            f"`interleave_probs` has one share per dataset, and there {are(len(found))} {count(len(found), 'datasets')}"
        )
    return Meaning(reason="it is part of `datasets`")


def _samples(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    if (limit := number(value)) is None or limit < 1:
        return wrong("`max_samples` is a number of rows, at least 1")
    if len(sources(values.get("dataset"), values)) > 1:
        return Meaning(reason="it limits each dataset of the mixture, so it is in their `split`")
    evaluated = {"max_eval_samples": value} if _evaluation(values) else {}
    if values.get("val_size"):
        return Meaning(reason="it is in `dataset_train_split`: LLaMA-Factory cuts the data before it holds rows out")
    return Meaning({"max_train_samples": value} | evaluated)


def _evaluation(values: Values) -> str | None:
    """The test split, if `eval_dataset` is the training data or another split of it."""
    trained, tested = sources(values.get("dataset"), values), sources(values.get("eval_dataset"), values)
    if len(trained) != 1 or len(tested) != 1:
        return None
    first, second = trained[0], tested[0]
    is_same = (first.path or first.name, first.config) == (second.path or second.name, second.config)
    return second.split if is_same else None


def _eval_dataset(value: Any, values: Values) -> Meaning:
    if not names(value):
        return UNSET
    if (split := _evaluation(values)) is not None:
        return Meaning({"dataset_test_split": split}, "it is a split of the training data")
    return Meaning(
        reason="evaluation data is a split of the dataset. Put both files into one folder, as train.jsonl and test.jsonl, and name "
        "the folder in `dataset_name`",
        changes=f"the run does not evaluate on {', '.join(names(value))}",
    )


def _eval_strategy(value: Any, values: Values) -> Meaning | tuple[()]:
    """Nothing is evaluated if the evaluation data cannot be named."""
    if value in (None, "no") or not names(values.get("eval_dataset")) or _evaluation(values) is not None:
        return ()
    return Meaning(
        {"eval_strategy": "no"}, "there is no evaluation data, see `eval_dataset`", "the run does not evaluate"
    )


def _held_out(value: Any, values: Values) -> Meaning:
    size = 0.0 if value is None else number(value)
    if size is None or size < 0:
        return wrong("`val_size` is a number of rows, or a share between 0 and 1")
    if size < 1e-6:
        return Meaning(reason="no rows are held out, as here")
    return Meaning({"eval_size": int(size) if size > 1 else value})


def _workers(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    if stage(values) == "ppo":
        return Meaning(reason="prompts are tokenised as completions are sampled")
    return Meaning({"dataset_num_proc": value})


CACHE = Meaning(reason="tokenised data is cached and made again when something changes")

MEANS: dict[str, str | Meaning | Reader] = {
    "dataset": _dataset,
    "eval_dataset": _eval_dataset,
    "eval_strategy": _eval_strategy,
    "dataset_dir": _in_dataset("it is part of the path of the data"),
    "media_dir": lambda value, values: UNSET if not value else Meaning(reason="paths of images in the data are used as they are"),
    "max_samples": _samples,
    "val_size": _held_out,
    "streaming": _in_dataset("it is written with the dataset"),
    "buffer_size": lambda value, values: Meaning(
        reason="a stream is read in its order", changes="rows are not shuffled" if values.get("streaming") else ""
    ),
    "mix_strategy": _in_dataset("it is part of `datasets`"),
    "interleave_probs": _interleaved,
    "preprocessing_num_workers": _workers,
    **dict.fromkeys(("overwrite_cache", "tokenized_path"), CACHE),
    "preprocessing_batch_size": Meaning(reason="it has no effect on the result"),
    "data_shared_file_system": Meaning(reason="every process reads the cache"),
    "eval_on_each_dataset": lost("evaluation has one dataset", "there is one evaluation loss, not one per dataset"),
}  # fmt: skip
