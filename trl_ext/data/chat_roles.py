"""Name the role of each column of prompts and completions."""

ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", "completion": "assistant"}
"""{column of text: the role of its turn}."""
