"""What a run needs on the machine that trains: packages and logins. `validate`, `run` and `compare` refuse without it.

The other verbs read a recipe on any machine, so they do not ask for it.
"""

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trl_ext.checks import packages, reward_names
from trl_ext.checks.rule import problem, requirement, samples
from trl_ext.checks.settings import Settings
from trl_ext.checks.trackers import INSTEAD, PACKAGES

FLASH_ATTENTION = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
    "flash_attention_4": ("flash_attn", "flash-attn-4"),
}
"""Implementations of attention, the package each comes from, and its name for pip."""


@requirement("report_to")
def tracker(s: Settings) -> Iterator[str]:
    for name in _trackers(s):
        needed, pip = PACKAGES.get(name, (None, None))
        if needed and not packages.is_installed(needed) and not packages.is_installed(INSTEAD.get(name, needed)):
            yield (
                f"{s.where('report_to')} names {name}, which is not installed here. Run `pip install {pip}`, or remove it from "
                "`report_to`."
            )


@requirement("report_to", "env")
def wandb_login(s: Settings) -> Iterator[str]:
    """Without a login, wandb asks for one after the weights are loaded, or fails where nobody can answer."""
    if "wandb" in _trackers(s) and packages.is_installed("wandb") and not _has_wandb_login(s):
        yield (
            f"{s.where('report_to')} names wandb, which has no login here. Run `wandb login`, set the variable WANDB_API_KEY, or "
            "record the run without a network: `env: {WANDB_MODE: offline}`."
        )


@requirement("push_to_hub", "hub_token")
def hub_login(s: Settings) -> Iterator[str]:
    """The repository is created once the weights are loaded."""
    if not s["push_to_hub"]:
        return
    where = s.where("push_to_hub")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield f"{where} is true, and HF_HUB_OFFLINE forbids the network. Unset the variable, or upload the finished run later with `hf upload`."
    elif not s["hub_token"] and not get_token():
        yield (
            f"{where} is true, and there is no login to the Hub here. Run `hf auth login`, set the variable HF_TOKEN, or upload the "
            "finished run later with `hf upload`."
        )


@problem("push_to_hub", "hub_model_id", recipe_only=True)
def hub_name(s: Settings) -> Iterator[str]:
    name = s["hub_model_id"]
    if not isinstance(name, str):
        return
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        yield (
            f"{s.where('hub_model_id')} is {name}, which is not the name of a repository: write name or org/name, with letters, digits, "
            "'-', '_' and '.'."
        )


@requirement("use_vllm", applies_to=samples)
def vllm(s: Settings) -> Iterator[str]:
    if s["use_vllm"] and not packages.is_installed("vllm"):
        yield (
            f"{s.where('use_vllm')} is true, and vLLM is not installed here. Run `pip install 'trl[vllm]'`, or remove the setting to "
            "sample with transformers."
        )


@requirement("reward_funcs")
def math_verify(s: Settings) -> Iterator[str]:
    """TRL finds out when the first completions are scored."""
    names = [str(name) for name in s["reward_funcs"] or [] if reward_names.needs_math_verify(str(name))]
    if names and not packages.is_installed("math_verify"):
        yield (
            f"{s.where('reward_funcs')} names {names[0]}, which compares mathematical answers with math-verify, and that is not "
            "installed here. Run `pip install math-verify`, or name another reward function."
        )


@requirement("attn_implementation", "model_init_kwargs")
def attention(s: Settings) -> Iterator[str]:
    inside = s["model_init_kwargs"] if isinstance(s["model_init_kwargs"], dict) else {}
    given = {s.where("attn_implementation"): s["attn_implementation"]}
    if "attn_implementation" in inside:
        given = {f"`attn_implementation` in {s.where('model_init_kwargs')}": inside["attn_implementation"]}
    for where, value in given.items():
        name = str(value or "").rpartition("|")[2]
        package, pip = FLASH_ATTENTION.get(name, (None, None))
        if packages.is_installed("kernels") or (package and packages.is_installed(package)):
            continue
        if "/" in name:
            yield (
                f"{where} is {value}, a kernel from the Hub, and the package that loads such kernels is not installed here. Run `pip "
                "install kernels`, or remove the setting."
            )
        elif package:
            yield (
                f"{where} is {value}, which is not installed here. Run `pip install {pip}` (or `pip install kernels`, which fetches it "
                "from the Hub), or remove the setting: packed rows use PyTorch's own flash kernels."
            )


def _trackers(s: Settings) -> list[str]:
    given = s["report_to"]
    return [str(name) for name in (given if isinstance(given, list) else [given]) if name]


def _has_wandb_login(s: Settings) -> bool:
    values = {**os.environ, **(s["env"] if isinstance(s["env"], dict) else {})}
    if any(values.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    if str(values.get("WANDB_MODE", "")).lower() in ("offline", "disabled", "dryrun") or _is_on(
        values.get("WANDB_DISABLED")
    ):
        return True
    host = urlsplit(str(values.get("WANDB_BASE_URL") or "https://api.wandb.ai")).hostname or ""
    files = [values["NETRC"]] if values.get("NETRC") else ["~/.netrc", "~/_netrc"]
    return any(_is_in(Path(file).expanduser(), host) for file in files)


def _is_on(value: Any) -> bool:
    return str(value or "").lower() in ("1", "true", "yes", "on")


def _is_in(file: Path, host: str) -> bool:
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except OSError:
        return False
    except netrc.NetrcParseError:
        return host in file.read_text(encoding="utf-8", errors="replace")
