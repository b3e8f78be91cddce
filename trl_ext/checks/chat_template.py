"""Rules about the chat template, judged from the model's files and the first rows of a local data file."""

from collections.abc import Iterator

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.data.formats import CHOICES
from trl_ext.data.template_choice import SETTING
from trl_ext.data.template_outlook import outlook
from trl_ext.model_files import chat_template
from trl_ext.support.errors import UserError


@problem(
    SETTING, "model_name_or_path", "dataset_name", "datasets", "dataset_columns", "dataset_format", recipe_only=True
)
def followed(s: Settings) -> Iterator[str]:
    """The setting can be followed."""
    model, name = s["model_name_or_path"], s["dataset_name"]
    if not isinstance(model, str) or s["dataset_format"] not in (None, *CHOICES):
        return
    path = s["chat_template_path"] if s.has("chat_template_path") else None
    template = chat_template.from_file(path) if path else chat_template.of_model(model, s["model_revision"])
    if s[SETTING] is True and template is not None and template.text is None:
        yield (
            f"{s.where(SETTING)} is true, but the tokenizer of {model} has no chat template. Choose an instruction-tuned model, "
            f"put a chat_template.jinja beside its tokenizer, or set `{SETTING}: false`."
        )
        return
    try:
        outlook(s[SETTING], template, None if s["datasets"] else name, s["dataset_columns"], s["dataset_format"])
    except UserError as error:
        if not _is_about_columns(error):
            yield from error.problems


@note(SETTING, "chat_template_path")
def path_without_use(s: Settings) -> Iterator[str]:
    if s["chat_template_path"] and s[SETTING] is False:
        yield f"{s.where('chat_template_path')} is used for messages only, because {s.where(SETTING)} is false."


def _is_about_columns(error: UserError) -> bool:
    """Whether `trl_ext.checks.first_rows` reports it as well."""
    return any(SETTING not in sentence for sentence in error.problems)
