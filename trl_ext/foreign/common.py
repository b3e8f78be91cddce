"""Write meanings that several programs' tables share."""

from collections.abc import Callable
from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning
from trl_ext.support.messages import shown_text

DEFAULT = Meaning(reason="that is the default")
UNSET = Meaning(reason="it is empty, so the default applies")

REFERENCE = Meaning(
    reason=(
        "a run makes the reference itself: the base model with its adapter switched off, or a second copy of the model where all "
        "weights are trained. Only losses that need a reference use it"
    )
)
INIT = "LoRA starts with PEFT's default, whose product is zero, so that the policy starts as the base"


def launch(options: str) -> Meaning:
    """Settings of the launcher."""
    return Meaning(advice=f"launch with `accelerate launch {options} -m trl_ext run RECIPE`")


def when(instead: dict[str, Any]) -> Reader:
    """A switch: the settings where it is on, the default where it is off."""
    return lambda on, values: Meaning(instead) if on else DEFAULT


def of(read: Callable[[Any], Meaning]) -> Reader:
    """A reader that needs the value alone."""
    return lambda value, values: read(value)


def processes(value: Any) -> Meaning:
    """A number of processes to launch."""
    return launch(f"--multi_gpu --num_processes {shown_text(str(value))}")


def loss_of(values: Values) -> Any:
    """The loss that a file names in the spelling of recipes or of TRL; "dpo" if it names none."""
    named = values.get("loss", values.get("loss_type"))
    return named if isinstance(named, str) and named else "dpo"


def with_sft(weight: Any, values: Values) -> Meaning:
    """The weight of an SFT loss that is added to the loss of the file."""
    if not weight:
        return Meaning(reason="no SFT loss is added unless `loss` says so")
    return Meaning({"loss": {loss_of(values): 1, "sft": weight}}, "this adds the SFT loss")


def initialisation(value: Any) -> Meaning:
    """How the factors of a LoRA start."""
    if value in (True, "gaussian", None):
        return Meaning(reason=INIT)
    return Meaning(
        reason=f"{INIT}. Other initialisations, such as PiSSA and LoftQ, change the base's weights, and the base is the reference",
        changes="the adapter starts at zero, not at that initialisation",
    )


def continued(value: Any) -> Meaning:
    """An adapter that is trained further."""
    if not value:
        return UNSET
    adapters = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if len(adapters) > 1:
        return Meaning(
            reason="one adapter can be trained on",
            advice="merge the others into the base model first, and name the result in `model_name_or_path`",
        )
    return Meaning(
        {"model_name_or_path": adapters[0]},
        "this adapter is trained further, and its base model is named in the adapter",
    )
