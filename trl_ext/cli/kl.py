"""`trl-ext kl`: which KL estimator, placed where, gives the gradient one wants."""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.cli import tables
from trl_ext.cli.arguments import writable_folder
from trl_ext.model_files import adapter
from trl_ext.support.errors import UserError

HELP = "audit KL estimators: bias and variance of value and gradient, exactly and on a run's own samples"
EXAMPLES = """examples:
  trl-ext kl                                 exactly, on a language of fifteen completions
  trl-ext kl runs/demo-dpo                   also by sampling from what a run trained
  trl-ext kl recipes/demo.yaml --n 1024      the same for the latest run of a recipe, else for the adapter it continues"""

LEAST = 64
PICTURE = "kl-audit.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RECIPE or RUN", nargs="?", type=Path, help="a YAML file or a run's directory")
    parser.add_argument("--n", type=int, default=512, help="completions to sample (default 512)")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="of each, at most (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    parser.add_argument("--output", type=Path, help=f"the picture (default {PICTURE}, in the run's directory)")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def run(args: argparse.Namespace) -> int:
    if args.n < LEAST:
        raise UserError(f"`--n` is {args.n}: gradients are not told from noise with fewer than {LEAST} completions.")
    if args.max_new_tokens < 1:
        raise UserError(f"`--max_new_tokens` is {args.max_new_tokens}: give a number from 1 up.")
    if args.output is not None:
        writable_folder("output", args.output.parent)
    source = _find(args.run)

    from rich.console import Console

    from trl_ext.kl_audit import exact as kl_audit
    from trl_ext.kl_audit import picture as kl_picture

    console = Console(highlight=False, quiet=args.json)
    audits = {"exact": kl_audit.exact()}
    chosen = _cell(source.recipe)
    console.print(_table(audits["exact"], "small language, exactly", chosen))
    if source.adapter is not None:
        console.print(f"\nsampling {args.n} completions of {source.adapter} …")
        audits["sampled"] = _sample(source, args, console)
        console.print(_table(audits["sampled"], str(source.adapter), chosen))
    console.print(*_legend(audits), sep="\n", style="dim", markup=False)
    if (hidden := _hidden(audits)) is not None:
        console.print(hidden, soft_wrap=True)
    if source.note:
        console.print(source.note, soft_wrap=True)
    picture = args.output or (Path() if source.is_start or source.adapter is None else source.adapter) / PICTURE
    if not picture.suffix:
        picture = picture.with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    kl_picture.draw(picture, audits.get("sampled"), str(source.adapter))
    console.print(f"picture  {picture}", soft_wrap=True)
    if args.json:
        facts = {name: dataclasses.asdict(audit) for name, audit in audits.items()} | {"picture": str(picture)}
        print(json.dumps(_without_nan(facts), indent=2))
    return 0


class Source(NamedTuple):
    """What there is to sample from.

    Attributes:
        recipe: `None` if nothing was named.
        adapter: Directory of a run, or of the adapter that a recipe without a run continues; `None` if there is none.
        is_start: Whether it is the latter.
        note: Why nothing is sampled, or what the sampled KL is not.
    """

    recipe: Any = None
    adapter: Path | None = None
    is_start: bool = False
    note: str = ""


def _find(given: Path | None) -> Source:
    if given is None:
        return Source()
    from trl_ext import recipe
    from trl_ext.runs import finished

    if given.is_dir():
        return Source(finished.recipe_of(given), given)
    if not given.exists():
        raise UserError(f"{given} does not exist: name a recipe (a YAML file) or the directory of a run.")
    directory = finished.run_of(given)
    if directory is not None:
        return Source(finished.recipe_of(directory), directory)
    return _start(given, recipe.load(given))


def _start(path: Path, recipe: Any) -> Source:
    """A recipe without a finished run: where it begins, policy and reference are the same."""
    begin = Path(recipe.get("model_name_or_path")).expanduser()
    if adapter.is_in(begin):
        note = (
            f"No finished run of {path} yet: sampled was the adapter it continues, against the base without any; the run's own "
            "reference is a frozen copy of that adapter, so at its start every KL is 0."
        )
        return Source(recipe, begin, True, note)
    if recipe.method.trains_scores:
        return Source(recipe, note=f"{path} trains a reward model, which writes no completions to sample.")
    if not recipe.get("use_peft"):
        note = f"{path} trains no adapter, and it is by switching one off that a run is held against its reference."
        return Source(recipe, note=note)
    note = (
        f"No finished run of {path} to sample from yet, and at its start policy and reference are the same, so every KL is "
        f"0: `trl-ext run {path}` first."
    )
    return Source(recipe, note=note)


def _cell(recipe: Any) -> tuple[str, str, str] | None:
    """The estimator, placement and level a recipe trains with, if its trainer has any."""
    if recipe is None or recipe.effective("kl_estimator") is None:
        return None
    from trl_ext.rl import kl

    estimator, placement, level = (recipe.effective(f"kl_{name}") for name in ("estimator", "placement", "level"))
    return estimator, placement, kl.check(estimator, placement, level)


def _sample(source: Source, args: argparse.Namespace, console: Any) -> Any:
    from trl_ext.runs.load import open_run, open_start

    # Both quieten what is imported next.
    opened = open_start(source.recipe, args.n) if source.is_start else open_run(source.adapter, args.n)
    model, tokenizer, prompts, continued = opened
    from trl_ext.kl_audit import sampled as kl_rollouts
    from trl_ext.support.sampling import sample

    # Plain text goes in as the trainer saw it, without a chat template.
    prompts = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in prompts]
    completions = sample(
        model,
        tokenizer,
        [prompts[i % len(prompts)] for i in range(args.n)],
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        batch_size=64,
    )
    if continued:
        console.print(
            f"The run continued the adapter {continued}; here the reference is the base without any adapter."
        )
    tokens = sum(len(completion.ids) for completion in completions)
    console.print(f"{tokens / args.n:.1f} tokens per completion, at temperature 1; taking gradients …")
    try:
        return kl_rollouts.measure(model, tokenizer, completions)
    except ValueError as error:
        raise UserError(f"{source.adapter}: {error}") from error


def _table(audit: Any, title: str, chosen: tuple[str, str, str] | None) -> Any:
    from rich.text import Text

    from trl_ext.rl import truth_table

    error = f" ± {audit.kl_se:.2f}" if audit.kl_se else ""
    table = tables.plain(title=f"{title}: KL {audit.kl:.2f}{error} nats per completion", title_justify="left")
    for heading in ("estimator,\nplace, level", "value\nbias", "value\nvar.", "gradient\ncosine", "gradient\nerror"):
        table.add_column(heading, justify="left" if "level" in heading else "right", no_wrap=True)
    table.add_column("gradient\nvar.", justify="right", no_wrap=True)
    is_sampled = audit.n is not None
    if not is_sampled:
        table.add_column("expected\ngradient")
    for row in audit.rows:
        is_exact = row.cell in truth_table.EXACT
        name = Text(" ".join(row.cell), style="bold green" if is_exact else "")
        table.add_row(
            name + (" ◀" if row.cell == chosen else ""),
            _percent(row),
            f"{row.value_variance:.1f}",
            _cosine(row),
            _error(row),
            f"{row.gradient_variance:.0f}",
            *([] if is_sampled else [Text(truth_table.GRADIENTS[row.cell][0], style="green" if is_exact else "")]),
            end_section=row.cell[1:] == ("loss", "sequence"),
        )
    return table


def _percent(row: Any) -> str:
    error = f" ± {100 * row.value_bias_se:.0f}" if row.value_bias_se else ""
    return f"{100 * row.value_bias + 0.0:+.0f}{error} %" if abs(row.value_bias) > 1e-9 else f"0{error} %"


def _cosine(row: Any) -> str:
    """The cosine; an estimate beyond 1, which no cosine is, as 1."""
    if math.isnan(row.cosine):
        return "—"
    return f"{max(-1.0, min(row.cosine, 1.0)):.2f}" + (f" ± {row.cosine_se:.2f}" if row.cosine_se else "")


def _error(row: Any) -> str:
    """The relative error, or what it is below where sampling does not tell it from none."""
    if not row.squared_error_se:
        return f"{row.error:.2f}"
    if row.squared_error < 2 * row.squared_error_se:
        return f"< {math.sqrt(max(row.squared_error, 0) + 2 * row.squared_error_se):.2f}"
    return f"{row.error:.2f} ± {row.squared_error_se / (2 * row.error):.2f}"


def _legend(audits: dict[str, Any]) -> list[str]:
    from trl_ext.rl import truth_table

    lines = [f"{name}: {text}." for name, text in truth_table.VALUES.items()]
    lines += [
        "Bias in % of the KL; variances of one completion, in KL² and in |∇KL|²; cosine and error of the expected "
        "gradient against ∇KL(π‖ref); — where it is zero, or not told from zero.",
        "Green: the reverse-KL gradient, which maximising reward − β·KL(π‖ref) asks for. ref: the reference policy.",
    ]
    if "sampled" in audits:
        lines.append(
            "Sampled: ± one standard error, < two; gradients of "
            f"{audits['sampled'].n_weights:,} adapter weights; the true KL is summed over the vocabulary at each state."
        )
        if any(abs(row.cosine) > 1 for row in audits["sampled"].rows):
            lines.append(
                "A sampled cosine is a quotient of unbiased estimates and may come out beyond 1, which is printed as 1 (in "
                "the JSON as it came out)."
            )
    return lines


def _hidden(audits: dict[str, Any]) -> str | None:
    """A sentence on cosines that sampling does not show although the exact ones are there; `None` if it shows them."""
    if "sampled" not in audits:
        return None
    sampled, exact = ({row.cell: math.isnan(row.cosine) for row in audits[name].rows} for name in ("sampled", "exact"))
    lost = sum(sampled[cell] and not exact[cell] for cell in sampled)
    n = audits["sampled"].n
    if not lost:
        return None
    return f"{lost} of {len(sampled)} cosines (—) drown in noise with {n:,} completions: take more, `--n {max(512, 4 * n)}` say."


def _without_nan(value: Any) -> Any:
    """The same with `None` for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
