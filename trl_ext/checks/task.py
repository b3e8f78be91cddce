"""Rules about what the model was trained for: a policy is a language model, and not a reward model."""

from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.methods import Method
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import task


def trains_a_policy(method: Method) -> bool:
    """Whether the language model itself is trained, and not scores."""
    return not method.trains_scores


@problem("model_name_or_path", applies_to=trains_a_policy, recipe_only=True)
def language_model(s: Settings) -> Iterator[str]:
    folder = Path(s["model_name_or_path"] or "").expanduser()
    what = task.not_a_language_model(folder) if s["model_name_or_path"] else None
    if what is None:
        return
    base = adapter_folder.base_of(folder)
    start = f"the model it was trained on ({base})" if base else "a causal language model"
    use = ""
    if task.is_reward_model(folder):
        use = " It gives scores instead of tokens."
        if s.method.samples_completions:
            setting = f"reward_adapter: {folder}" if base else f"reward_funcs: [{folder}]"
            start += f", and give the reward model as `{setting}`"
    yield (
        f"{s.where('model_name_or_path')} is {folder}, {what}.{use} {s.method.title[0].upper()}{s.method.title[1:]} needs a "
        f"language model as the policy: name {start}."
    )
