"""`trl-ext kl`: measure bias and variance of every KL estimator, in the reward and in the loss."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.cli.recipe_keys import add_run_or_recipe
from trl_ext.cli.values import add_quiet, whole_number, writable_folder
from trl_ext.support import encoding, terminal
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

HELP = "measure bias and variance of KL estimators"
EXAMPLES = """examples:
  trl-ext kl
  trl-ext kl runs/demo-dpo
  trl-ext kl demo --n 1024

The exact results are for a small language of fifteen completions. The table of optimizer steps says what baselines, whitening and averaging leave of the gradient; for a recipe with a KL, a sentence says what its own steps estimate. With RUN, the estimators are also measured on completions sampled from the trained model. For a recipe its latest finished run is used, or else the adapter that it continues.

exit code: 0 on success, 2 on a user error"""

LEAST = 64
WHY_LEAST = "With fewer completions, gradients cannot be distinguished from noise."
PICTURE = "kl-audit.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [RUN|RECIPE] [options]"
    add_run_or_recipe(parser, nargs="?")
    parser.add_argument(
        "--n",
        type=whole_number(LEAST, WHY_LEAST),
        default=512,
        metavar="COUNT",
        help="completions to sample (default: 512)",
    )
    parser.add_argument(
        "--max_new_tokens",
        type=whole_number(1),
        default=128,
        metavar="TOKENS",
        help="largest number of tokens per completion (default: 128)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="seed of the sampling (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"file for the plot (default: {PICTURE} in the run directory); the results of a run go into a JSON file beside it",
    )
    add_quiet(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.output is not None:
        writable_folder("output", args.output.parent)
    source = _find(args.run)

    from trl_ext.kl_audit import exact, picture, report, step_report

    console = terminal.console(quiet=args.json)
    audits = {"exact": exact.audit_exactly()}
    step = _step(source.recipe)
    chosen = None if step is None else step.cell
    console.print(report.table(audits["exact"], "small language, exactly", chosen))
    if source.adapter is not None:
        console.print(f"\nsampling {count(args.n, 'completions')} from {source.adapter} …")
        audits["sampled"] = found = _sample(source, args, console)
        if found.rows:
            console.print(report.table(found, str(source.adapter), chosen))
    console.print(step_report.table(step))
    measured = {name: audit for name, audit in audits.items() if audit.rows}
    console.print(*report.legend(measured, chosen), *step_report.legend(), sep="\n", style="dim", markup=False)
    if step is not None:
        console.print(*step_report.about(step), sep="\n", markup=False)
    elif _is_without_kl(source.recipe):
        console.print("this recipe: the KL coefficient is 0, so it trains without a KL")
    for note in _notes(audits, measured, source):
        console.print(note, markup=False)
    path = args.output or (Path() if source.is_start or source.adapter is None else source.adapter) / PICTURE
    if not path.suffix:
        path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.draw(path, measured.get("sampled"), str(source.adapter), step)
    console.print(f"picture  {path}")
    found = {name: dataclasses.asdict(audit) for name, audit in audits.items()} | step_report.facts(step)
    facts = _without_nan(found | {"picture": str(path)})
    if source.adapter is not None:
        from trl_ext.support import atomic

        atomic.write_json(path.with_suffix(".json"), facts | {"source": str(source.adapter)})
        console.print(f"record   {path.with_suffix('.json')}")
    if args.json:
        print(encoding.as_json(facts, indent=2))
    return 0


def _notes(audits: dict[str, Any], measured: dict[str, Any], source: "Source") -> list[str]:
    from trl_ext.kl_audit import report

    found = [report.noise_note(measured), source.note]
    if "sampled" in audits and "sampled" not in measured:
        from trl_ext.kl_audit.sampled import enough

        found.insert(0, report.about_small_kl(audits["sampled"], enough(audits["sampled"].kl)))
    return [note for note in found if note]


class Source(NamedTuple):
    """The model to sample from.

    Attributes:
        recipe: `None` if neither a run nor a recipe was given.
        adapter: Directory of a run, or of the adapter that a recipe without a run continues; `None` if nothing is sampled.
        is_start: Whether `adapter` is the one that a recipe continues.
        note: The reason why nothing is sampled, or a limit of the sampled KL.
    """

    recipe: Any = None
    adapter: Path | None = None
    is_start: bool = False
    note: str = ""


def _find(given: Path | None) -> Source:
    if given is None:
        return Source()
    from trl_ext import recipe
    from trl_ext.model_files import adapter
    from trl_ext.recipe import names
    from trl_ext.runs import finished

    if given.is_dir():
        return Source(finished.recipe_of(given), given)
    if not names.find(given).exists():
        raise UserError(finished.absent(given))
    directory = finished.run_of(given)
    if directory is not None and adapter.is_in(directory):
        return Source(finished.recipe_of(directory), directory)
    return _start(given, recipe.load(given))


def _start(path: Path, recipe: Any) -> Source:
    """The adapter that a recipe without a finished run continues, if any."""
    from trl_ext.model_files import adapter

    begin = Path(recipe.get("model_name_or_path")).expanduser()
    if adapter.is_in(begin):
        note = (
            f"{path} has no finished run yet. The samples are from the adapter that it continues, and the reference is the "
            "base without an adapter. In the run itself the reference is a frozen copy of that adapter, so every KL starts at 0."
        )
        return Source(recipe, begin, True, note)
    if recipe.method.trains_scores:
        return Source(recipe, note=f"Nothing is sampled: {path} trains a reward model, which writes no completions.")
    if not recipe.get("use_peft"):
        note = f"Nothing is sampled: {path} trains no adapter, and the reference is the model with its adapter off."
        return Source(recipe, note=note)
    note = (
        f"Nothing is sampled: {path} has no finished run yet, and every KL is 0 at the start of training. Train it first: "
        f"`trl-ext run {path}`."
    )
    return Source(recipe, note=note)


def _step(recipe: Any) -> Any:
    """The optimizer step of a recipe, as `trl_ext.rl.step_table.Step`; `None` if it trains without a KL."""
    if recipe is None or recipe.effective("kl_placement") is None or _is_without_kl(recipe):
        return None
    from trl_ext.checks.kl import step_of

    return step_of(recipe.effective)


def _is_without_kl(recipe: Any) -> bool:
    """Whether the recipe has a KL coefficient, and it is 0."""
    if recipe is None or recipe.effective("kl_placement") is None:
        return False
    from trl_ext.checks.kl import coefficient

    return coefficient(recipe.effective) == 0


def _sample(source: Source, args: argparse.Namespace, console: Any) -> Any:
    from trl_ext.runs.load import open_run, open_start

    # Both configure the libraries imported next.
    opened = open_start(source.recipe, args.n) if source.is_start else open_run(source.adapter, args.n)
    model, tokenizer, prompts, continued = opened
    from trl_ext.cli.eval import watched
    from trl_ext.kl_audit import sampled
    from trl_ext.kl_audit.exact import Audit
    from trl_ext.support.sampling import sample

    # The trainer used plain text without a chat template, so it is tokenized as it is.
    prompts = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in prompts]
    completions = sample(
        model,
        tokenizer,
        [prompts[i % len(prompts)] for i in range(args.n)],
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        batch_size=64,
        watched=lambda items, total: watched(items, total, console, "sampling"),
    )
    if continued:
        console.print(f"The run continued the adapter {continued}. The reference here is the base without an adapter.")
    tokens = sum(len(completion.ids) for completion in completions)
    console.print(f"{tokens / args.n:.1f} tokens per completion at temperature 1")
    kl, spread = sampled.measure_kl(model, tokenizer, completions)
    if sampled.is_lost_in_noise(kl, args.n):
        return Audit(kl, [], kl_se=spread, n=args.n)
    console.print("computing gradients …")
    return sampled.audit_samples(
        model, tokenizer, completions, lambda items, total: watched(items, total, console, "gradients")
    )


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON lacks, by `None`."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
