"""Read a model's chat template from its files, and write conversations with it, without importing transformers.

`trl-ext validate` needs to know whether there is one. A run asks the tokenizer itself.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from trl_ext import demo
from trl_ext.model_files import adapter, local

JINJA, LEGACY, TOKENIZER = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Template:
    """A chat template and the special tokens that it reads, as text.

    Attributes:
        text: The template in Jinja; `None` for a tokenizer without one.
        tokens: For instance ``{"eos_token": "</s>"}``.
    """

    text: str | None
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def is_marked(self) -> bool:
        """Whether it marks the assistant's tokens, as `trl.chat_template_utils.has_generation_markers` finds out."""
        return self.text is not None and re.search(r"\{%-?\s*generation\s*-?%\}", self.text) is not None

    def render(self, messages: list[dict[str, Any]], **given: Any) -> str:
        """A conversation as text, as transformers' `apply_chat_template` writes it.

        Args:
            messages: The conversation.
            given: Further variables, such as `tools` and `add_generation_prompt` (default: false).

        Raises:
            Exception: Whatever the template raises for such a conversation.
        """
        return _compiled(self.text or "").render(
            **{"messages": messages, "add_generation_prompt": False, **self.tokens, **given}
        )


@functools.cache
def _compiled(text: str) -> Any:
    """The template as transformers compiles it."""
    return environment().from_string(text)


@functools.cache
def environment() -> Any:
    """Jinja as transformers sets it up for chat templates."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Ignores `{% generation %}`, which marks the tokens that are trained on."""

        tags: ClassVar = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise ValueError(message)

    extensions = [loopcontrols, Generation]
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.filters["tojson"] = lambda value, **given: json.dumps(value, ensure_ascii=False)
    made.globals |= {"raise_exception": refuse, "strftime_now": lambda format: "2026-01-01"}
    return made


@functools.cache
def marked_by_trl() -> frozenset[str]:
    """The templates that TRL replaces by its own version with marks (`trl.get_training_chat_template`)."""
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.origin).parent / "chat_templates" if spec and spec.origin else Path("absent")
    ending = "_training.jinja"
    plain = [path.with_name(path.name.removesuffix(ending) + ".jinja") for path in folder.glob(f"*{ending}")]
    return frozenset(path.read_text(encoding="utf-8") for path in plain if path.is_file())


def of_model(name: str, revision: str | None = None) -> Template | None:
    """The chat template of a model or of the base of an adapter.

    Args:
        name: A folder, a name on the Hub, or `embedded`.
        revision: Commit, branch or tag on the Hub.

    Returns:
        Its template; `None` if its tokenizer is not on this computer or cannot be read.
    """
    if name == demo.EMBEDDED:
        return _in_folder(demo.MODEL)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        cached = local.folder(name, revision, (TOKENIZER,))
        return None if cached is None else _in_folder(cached)
    if adapter.is_in(folder) and not (folder / TOKENIZER).exists():
        base = adapter.base_of(folder)
        return None if base is None or Path(base) == folder else of_model(base, adapter.revision_of(folder))
    return _in_folder(folder)


def from_file(path: str) -> Template | None:
    """The template that TRL's `chat_template_path` names: a Jinja file, or the model whose template is used."""
    if path.endswith((".jinja", ".j2")) and Path(path).is_file():
        return Template(Path(path).read_text(encoding="utf-8"))
    return of_model(path)


def _in_folder(folder: Path) -> Template | None:
    try:
        settings = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        text = settings.get("chat_template")
        if (folder / JINJA).is_file():
            text = (folder / JINJA).read_text(encoding="utf-8")
        elif (folder / LEGACY).is_file():
            text = json.loads((folder / LEGACY).read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, LookupError, AttributeError):
        return None
    if isinstance(text, list):  # several by name
        text = {entry["name"]: entry["template"] for entry in text}.get("default")
    tokens = {name: settings.get(name) for name in TOKENS}
    tokens = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return Template(text, {name: token for name, token in tokens.items() if isinstance(token, str)})
