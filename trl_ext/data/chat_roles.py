"""Name the role of each column of prompts and completions."""

ROLES = {"prompt": "user"} | dict.fromkeys(("chosen", "rejected", "gold", "completion"), "assistant")
"""{column of text: the role of its turn}."""
