"""Keep the defaults of a chat template's variables where TRL's SFT and reward trainers replace the template.

They read `chat_template_path` over the tokenizer's template, and recognise templates that they know by their whole text. So the
line with the defaults (`trl_ext.model_files.template_defaults`) is taken out before and put back for whatever uses the template.
"""

from typing import Any

from trl_ext.model_files.template_defaults import get_line, put_line, split


class TemplateDefaults:
    """The line with the defaults of a tokenizer or processor, which is taken out of it."""

    def __init__(self, processing_class: Any) -> None:
        self._line = get_line(processing_class)
        if self._line:
            put_line(processing_class, "")

    def put_back(self, processing_class: Any) -> None:
        """Write the line into the templates that a tokenizer or processor has now."""
        if self._line:
            put_line(processing_class, self._line)

    def added(self, template: str | None) -> str | None:
        """A template with the line; `None` for none."""
        return self._line + split(template)[1] if template and self._line else template
