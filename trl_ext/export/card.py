"""Write the model card of a merged model."""

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCardData

from trl_ext import demo
from trl_ext.build import architecture
from trl_ext.export import verdict
from trl_ext.export.fidelity import Fidelity
from trl_ext.export.source import Source
from trl_ext.report import loaders
from trl_ext.report.card import on_hub


def render(source: Source, output: Path, dtype: str, fidelity: Fidelity | None) -> str:
    """Render Markdown with Hub metadata: base, adapter, data, difference from the trained model, code that loads it.

    Args:
        source: The merged adapter and its base.
        output: Folder of the merged model; its name is the title.
        dtype: Of the weights.
        fidelity: `None` if the models were not compared.
    """
    recipe = source.recipe
    dataset = recipe and recipe.get("dataset_name")
    metadata = ModelCardData(
        base_model=source.base if on_hub(source.base) else None,
        datasets=[dataset] if dataset and on_hub(dataset) else None,
        library_name="transformers",
        pipeline_tag="text-classification" if source.is_classifier else "text-generation",
        tags=["merged", "lora", "trl-ext"],
    )
    base = demo.EMBEDDED if source.base == str(demo.MODEL) else source.base
    facts = {"base model": f"`{base}`", "weights": dtype}
    if recipe:
        facts["method"] = f"`{recipe.title}`"
    if dataset:
        facts["dataset"] = f"`{dataset}`"
    kind = "DoRA" if source.adapter.get("use_dora") else "rsLoRA" if source.adapter.get("use_rslora") else "LoRA"
    facts["adapter"] = f"{kind}, r {source.adapter['r']}, lora_alpha {source.adapter['lora_alpha']}"
    packages = ("trl-ext", "peft", "transformers")
    facts["merged with"] = ", ".join(f"{package} {version(package)}" for package in packages)
    summary = table(("", ""), facts.items())
    parts = [f"---\n{metadata.to_yaml()}\n---\n\n# {output.resolve().name}", summary, _how(source)]
    if fidelity is not None:
        parts += ["## Difference from the trained model", verdict.in_words(fidelity, dtype)]
        parts += [table(verdict.HEADINGS, verdict.rows(fidelity, dtype)), about(fidelity)]
    parts += ["## Use", _usage(source)]
    return "\n\n".join(parts) + "\n"


def _how(source: Source) -> str:
    what = "a reward model with one score" if source.is_classifier else "a language model"
    return f"The adapter was merged into the original weights in float32 and rounded once. The result is {what}; PEFT is not needed."


def _usage(source: Source) -> str:
    config = architecture.read(source.base, source.revision, trust_remote_code=source.trust_remote_code)
    by_name = loaders.of((config.architectures or [""])[0], is_classifier=source.is_classifier)
    return (
        "```python\n"
        f"from transformers import {', '.join(sorted((by_name.model, by_name.processing)))}\n\n"
        f'model = {by_name.model}.from_pretrained("<this directory>")\n'
        f'{by_name.variable} = {by_name.processing}.from_pretrained("<this directory>")\n'
        "```"
    )


def about(fidelity: Fidelity) -> str:
    """What was compared and what the numbers are."""
    return (
        f"Measured on {fidelity.what} ({fidelity.tokens:,} tokens), with all models computing in {fidelity.dtype}. KL is taken over "
        "the whole vocabulary at every token; KL and the largest differences of log-probabilities are in nats."
    )


def table(headings: tuple, rows: object) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
