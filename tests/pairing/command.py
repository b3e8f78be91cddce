"""The command that the tests here call, and how they read what it wrote."""

import hashlib
import json
from pathlib import Path

from trl_ext.cli import main

N, PROMPTS = 3, 7
SHORT = ("--num_generations", str(N), "--max_new_tokens", "12", "--keep_truncated", "--batch_size", "6")


def pairs(small, output, *words, reward=("--reward_funcs", "sentiment"), limit=PROMPTS):
    return main(["pairs", str(small), *reward, *SHORT, "--limit", str(limit), "--output", str(output), *words])


def read(path: Path) -> list[dict]:
    """The JSON objects of a file, one per line."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def content(folder: Path) -> dict[str, str]:
    """A digest of every file but the provenance, which has a date."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "provenance.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
