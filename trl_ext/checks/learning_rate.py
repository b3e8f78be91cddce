"""A note about a learning rate at which an adapter hardly changes."""

import math
from collections.abc import Iterator

from trl_ext.checks import usual_rates
from trl_ext.checks.rule import note
from trl_ext.checks.settings import Settings


@note(
    "learning_rate", "use_peft", "lora_r", "lora_alpha", "use_rslora", "model_name_or_path", "optim", recipe_only=True
)
def rate_of_full_fine_tuning(s: Settings) -> Iterator[str]:
    """Judged where the optimizer is Adam's kind, whose steps have the size of the rate, and the rank is one number."""
    rate, alpha, rank = s["learning_rate"], s["lora_alpha"], s["lora_r"]
    if not s["use_peft"] or "adam" not in str(s["optim"] or "adam").lower():
        return
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) and x > 0 for x in (rate, alpha, rank)):
        return
    low = usual_rates.smallest(s.method, s.loss)
    if s["model_name_or_path"] == "embedded":
        low = max(low, usual_rates.OF_A_TINY_MODEL)
    low *= usual_rates.factor(alpha, rank, uses_rslora=s["use_rslora"])
    if rate >= low * math.sqrt(usual_rates.FULL):  # nearer to the rate of LoRA than to that of full fine-tuning
        return
    given = (
        f"{s.where('learning_rate')} is {rate:g}"
        if "learning_rate" in s
        else f"`learning_rate` is not set, so it is {rate:g}"
    )
    trains = s.loss.name if s.method.has_loss and s.loss else s.method.title
    yield (
        f"{given}, which is a rate for training all weights. An adapter of rank {rank:g} with `lora_alpha` {alpha:g} hardly changes at "
        f"this rate. Usual rates for {trains} are {low:.1g} to {low * usual_rates.SPAN:.1g}. Set `learning_rate: {low:.1g}`."
    )
