"""Keep the defaults of a chat template's variables where TRL's SFT and reward trainers replace the template.

They read `chat_template_path` over the tokenizer's template, and recognise templates that they know by their whole text. So the
line with the defaults (`trl_ext.model_files.template_defaults`) is taken out before and put back for whatever uses the template.
"""

from typing import Any

from trl_ext.model_files.template_defaults import get_line, put_line, split


class TemplateDefaults:
    """Mixin for `trl.SFTTrainer` and `trl.RewardTrainer`. Overridden: `_prepare_dataset`; read and set: `chat_template` of SFT."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("processing_class")
        self._defaults_line = get_line(given)
        if self._defaults_line:
            put_line(given, "")
        super().__init__(*args, **kwargs)
        if self._defaults_line:
            put_line(self.processing_class, self._defaults_line)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, *args: Any, **kwargs: Any) -> Any:
        if self._defaults_line:
            put_line(processing_class, self._defaults_line)
            if getattr(self, "chat_template", None) is not None:
                self.chat_template = self._defaults_line + split(self.chat_template)[1]
        return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)
