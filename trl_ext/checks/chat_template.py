"""Rules about the chat template, judged from the model's files and the first rows of a local data file."""

from collections.abc import Iterator
from dataclasses import replace

from jinja2 import TemplateError

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.data.formats import CHOICES
from trl_ext.data.template_choice import SETTING
from trl_ext.data.template_losses import REMEDY, Losses, losses
from trl_ext.data.template_outlook import outlook
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import chat_template
from trl_ext.model_files.chat_template import Template, marked_by_trl
from trl_ext.model_files.template_defaults import GIVEN, is_name, is_value, split, variables_of, with_defaults
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.support.messages import one_of, shown

VARIABLES = "chat_template_kwargs"


@problem(
    SETTING, "model_name_or_path", "dataset_name", "datasets", "dataset_columns", "dataset_format", recipe_only=True
)
def followed(s: Settings) -> Iterator[str]:
    """The setting can be followed."""
    model, name = s["model_name_or_path"], s["dataset_name"]
    if not isinstance(model, str) or s["dataset_format"] not in (None, *CHOICES):
        return
    template = _template(s)
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


READ = ("model_name_or_path", "dataset_name", "datasets", "dataset_columns", "dataset_format")


@problem(SETTING, *READ, recipe_only=True)
def something_is_left(s: Settings) -> Iterator[str]:
    """Of a file that is read whole, most completions keep something of what they say."""
    found = _losses(s)
    if found is not None and found.is_all and 2 * found.empty > found.total:
        yield (
            f"{s.where('dataset_name')} is {s['dataset_name']}: in {found.empty} of {count(found.total, 'rows')}, the chat "
            f"template leaves out all that {_what(s)} says. {found.example}. {REMEDY}."
        )


@note(SETTING, *READ, recipe_only=True)
def left_out(s: Settings) -> Iterator[str]:
    """What the chat template does not write."""
    found = _losses(s)
    if found is None or not found.lacking or (found.is_all and 2 * found.empty > found.total):
        return
    rows = f"{found.lacking} of {'' if found.is_all else 'the first '}{count(found.total, 'rows')}"
    nothing = f", and in {found.empty} of them all that {_what(s)} says" if found.empty else ""
    yield f"The chat template leaves out text of messages in {rows}{nothing}. {found.example}."


@problem("assistant_only_loss", "model_name_or_path", recipe_only=True)
def assistant_turns_are_marked(s: Settings) -> Iterator[str]:
    """TRL finds the assistant's tokens by marks in the chat template, and has marked versions of some templates."""
    if s["assistant_only_loss"] is not True or not isinstance(s["model_name_or_path"], str):
        return
    template = _template(s)
    if template is None or template.is_marked or (template.text and split(template.text)[1] in marked_by_trl()):
        return
    fault = (
        "has no chat template"
        if template.text is None
        else "has a chat template without `{% generation %}` marks around them"
    )
    yield (
        f"{s.where('assistant_only_loss')} is true, but TRL cannot tell the assistant's tokens: the tokenizer of "
        f"{s['model_name_or_path']} {fault}. Name a template with marks (`chat_template_path: FILE.jinja`), or set "
        "`assistant_only_loss: false` to train on every token."
    )


@problem("chat_template_kwargs")
def variables_can_be_written(s: Settings) -> Iterator[str]:
    """The variables have names and values that a template can read."""
    given = s[VARIABLES]
    if not isinstance(given, dict):  # its type is checked elsewhere
        return
    for name, value in given.items():
        if not is_name(name):
            yield f"{s.where(VARIABLES)} names {shown(name)}: give the names of variables, `enable_thinking` for instance."
        elif name in GIVEN:
            yield (
                f"{s.where(VARIABLES)} sets `{name}`, which each conversation gives the chat template itself. Remove it"
                + (", and give the tools in the column `tools` of the data." if name == "tools" else ".")
            )
        elif not is_value(value):
            yield (
                f"{s.where(VARIABLES)} gives `{name}` {'null' if value is None else shown(value)}: give true, false, a number, a text, or a list or mapping of "
                "these."
            )


@problem("chat_template_kwargs", "model_name_or_path", recipe_only=True)
def variables_are_read(s: Settings) -> Iterator[str]:
    """The model's chat template reads each of the variables."""
    given, model = s[VARIABLES], s["model_name_or_path"]
    if not isinstance(given, dict) or not given or not isinstance(model, str):
        return
    template = _template(s)
    if template is None:
        return
    if template.text is None:
        yield (
            f"{s.where(VARIABLES)} would be ignored, because the tokenizer of {model} has no chat template. Remove it, or choose "
            "an instruction-tuned model."
        )
        return
    try:
        known = sorted(variables_of(template.text))
    except TemplateError:  # the run says what is wrong with it
        return
    for name in given:
        if is_name(name) and name not in GIVEN and name not in known:
            reads = f"{one_of(name, known)}" if known else "it reads no variables, so remove the setting."
            yield f"{s.where(VARIABLES)} sets `{name}`, which the chat template of {model} does not read: {reads}"


def _what(s: Settings) -> str:
    return "the prompt" if s.method.samples_completions else "a completion"


def _losses(s: Settings) -> Losses | None:
    """What the chat template leaves out of the first rows; `None` where it is not applied or not known."""
    model, name = s["model_name_or_path"], s["dataset_name"]
    if not isinstance(model, str) or not isinstance(name, str) or s["datasets"]:
        return None
    if name == EMBEDDED or s["dataset_format"] not in (None, *CHOICES):
        return None
    template, given = _template(s), (name, s["dataset_columns"], s["dataset_format"] or "auto")
    if template is None or template.text is None:
        return None
    try:
        if "template: applied" not in outlook(s[SETTING], template, *given):
            return None
        return losses(s.method.reads, template, *given)
    except UserError:  # other rules report it
        return None


def _template(s: Settings) -> Template | None:
    path = s["chat_template_path"] if s.has("chat_template_path") else None
    found = (
        chat_template.from_file(path) if path else chat_template.of_model(s["model_name_or_path"], s["model_revision"])
    )
    variables = s[VARIABLES] if s.has(VARIABLES) else None
    if found is None or found.text is None or not isinstance(variables, dict) or not all(map(is_name, variables)):
        return found
    return replace(found, text=with_defaults(found.text, {name: v for name, v in variables.items() if is_value(v)}))


def _is_about_columns(error: UserError) -> bool:
    """Whether `trl_ext.checks.first_rows` reports it as well."""
    return any(SETTING not in sentence for sentence in error.problems)
