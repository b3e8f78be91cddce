"""Name the classes of transformers by which a model card loads a model."""

from typing import NamedTuple


class Loaders(NamedTuple):
    """Names for lines of code.

    Attributes:
        model: Class of the model.
        processing: Class of its tokenizer, or of its processor of text and images.
        variable: Name of the variable that holds the latter.
    """

    model: str
    processing: str = "AutoTokenizer"
    variable: str = "tokenizer"


def of(architecture: str, *, is_classifier: bool) -> Loaders:
    """The classes that load a model.

    Args:
        architecture: Name of its own class.
        is_classifier: Whether it is loaded as a sequence classifier.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if is_classifier:
        return Loaders("AutoModelForSequenceClassification")
    if architecture in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values():
        return Loaders("AutoModelForImageTextToText", "AutoProcessor", "processor")
    return Loaders("AutoModelForCausalLM")
