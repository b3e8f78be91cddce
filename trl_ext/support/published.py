"""Name the files of a run that are uploaded to the Hub. Others in its directory stay here, such as sampled answers and logs."""

RESULTS = ("README.md", "report.html", "eval-*.json", "judged-*.json", "tasks.json")
"""What an evaluation writes: card, page and records. The file of all answers stays here."""

MODEL = (
    "adapter_config.json", "adapter_model*", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "spiece.model", "sentencepiece.*", "chat_template*", "additional_chat_templates/*", "processor_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""Files of an adapter and its tokenizer or processor, in a run's directory or a checkpoint. The state of the training is none of them."""

WEIGHTS = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "modeling_*.py",
    "configuration_*.py", "tokenization_*.py", "processing_*.py",
)  # fmt: skip
"""Files of a model whose weights were all trained."""

RUN = (*MODEL, *WEIGHTS, *RESULTS, "recipe.resolved.yaml", "metrics.jsonl", "curves.png", "*events.out.tfevents*")
"""What a trainer uploads of its directory."""
