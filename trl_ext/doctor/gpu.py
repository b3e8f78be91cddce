"""The graphics card: whether there is one, whether torch can use it, what is free of its memory, how it calculates."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trl_ext.doctor.finding import Finding, fails, passed, warns

GIB = 2**30
GET_TORCH = "https://pytorch.org/get-started/locally has the command for your card"
NEEDS_A_GPU = "the demo runs, and so do plan and validate; real models need a GPU"


@dataclass(frozen=True)
class Build:
    """What the installed torch was built for.

    Attributes:
        version: Of torch.
        cuda, hip: Version of CUDA or ROCm, or `None`.
        architectures: Compiled for, as ``sm_90``, or ``compute_90`` where the driver compiles the rest.
    """

    version: str
    cuda: str | None
    hip: str | None
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """A card that torch can see; memory in bytes."""

    name: str
    capability: tuple[int, int]
    free: int
    total: int
    has_bf16: bool


def build() -> Build:
    import torch

    return Build(torch.__version__, torch.version.cuda, torch.version.hip, tuple(torch.cuda.get_arch_list()))


def card() -> Card | None:
    """The first card, which a run uses; `None` if torch has none to use."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Card(properties.name, (properties.major, properties.minor), free, total, is_native)


def cards() -> int:
    """How many there are."""
    import torch

    return torch.cuda.device_count()


def other_accelerator() -> str | None:
    """What torch calls an accelerator that is no CUDA or ROCm card: `mps`, `xpu`; `None` if there is none."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    return None if kind is None or kind.type == "cuda" else kind.type


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver runs, asked of the driver itself; `None` without one."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0 or number.value == 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def nvidia_smi(*query: str) -> list[list[str]]:
    """Rows that `nvidia-smi` answers; none where there is no such program or it fails."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", *query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
    return [[cell.strip() for cell in row.split(",")] for row in rows]


def has_amd_card() -> bool:
    return Path("/dev/kfd").exists()


def holders() -> list[tuple[str, float]]:
    """Other programs with memory on the card, the largest first: name with process id, GiB."""
    found = []
    for pid, name, *mebibytes in nvidia_smi("--query-compute-apps=pid,process_name,used_memory"):
        if pid != str(os.getpid()) and mebibytes and mebibytes[-1].isdigit():
            found.append((f"{Path(name).name} (pid {pid})", int(mebibytes[-1]) / 1024))
    return sorted(found, key=lambda holder: -holder[1])


def gpu() -> Iterator[Finding]:
    """What there is, and why torch cannot use it where it cannot."""
    made, found = build(), card()
    if found is None:
        yield _without(made)
        return
    several = f" (the first of {cards()})" if cards() > 1 else ""
    if made.hip:
        yield warns(
            "GPU",
            f"{found.name}{several}, ROCm {made.hip}",
            "trl-ext is measured on NVIDIA cards: go by the lines on bitsandbytes and attention below.",
        )
        return
    driver = driver_cuda()
    runs = f", driver for CUDA {driver[0]}.{driver[1]}" if driver else ""
    text = f"{found.name}{several}, compute capability {'.'.join(map(str, found.capability))}{runs}, torch for {made.cuda}"
    if made.architectures and not _is_compiled_for(found.capability, made.architectures):
        yield fails(
            "GPU",
            f"{text}, which has no code for this card (only {', '.join(made.architectures)})",
            f"install a torch built for it: {GET_TORCH}.",
        )
        return
    yield passed("GPU", text)


def _without(made: Build) -> Finding:
    """Why there is no CUDA or ROCm card to use."""
    named = nvidia_smi("--query-gpu=name")
    name = named[0][0] if named else "an NVIDIA card"
    if (named or driver_cuda()) and made.cuda is None and made.hip is None:
        return fails(
            "GPU", f"{name}, and torch {made.version} is built for CPUs", f"install it for CUDA: {GET_TORCH}."
        )
    if (driver := driver_cuda()) and made.cuda and driver[0] < int(made.cuda.partition(".")[0]):
        return fails(
            "GPU",
            f"{name}, whose driver runs CUDA {driver[0]}.{driver[1]}, and torch is built for CUDA {made.cuda}",
            f"update the NVIDIA driver, or install torch for CUDA {driver[0]}: {GET_TORCH}.",
        )
    if "CUDA_VISIBLE_DEVICES" in os.environ and named:
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        return fails("GPU", f"{name}, hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset it, or set it to 0.")
    if named:
        return fails(
            "GPU", f"{name}, and torch cannot use it", 'python -c "import torch; torch.cuda.init()" says why.'
        )
    if has_amd_card() and made.hip is None:
        return warns("GPU", "an AMD card, and torch is not built for ROCm", f"install it for ROCm: {GET_TORCH}.")
    if (other := other_accelerator()) is not None:
        name = {"mps": "Apple GPU (Metal)", "xpu": "Intel GPU"}.get(other, other)
        remedy = "trl-ext is measured on NVIDIA cards: go by the lines on bitsandbytes and attention below."
        return warns("GPU", name, remedy)
    return warns("GPU", "none: everything runs on the CPU", f"{NEEDS_A_GPU}.")


def _is_compiled_for(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Machine code runs on cards of its generation from its own minor version on, PTX on all later ones."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = "".join(filter(str.isdigit, digits))
        major, minor = int(number[:-1]), int(number[-1])
        if (kind == "compute" and (major, minor) <= capability) or (major == capability[0] and minor <= capability[1]):
            return True
    return False


def memory() -> Iterator[Finding]:
    """Free memory of the card, and who holds the rest."""
    from trl_ext.planner.vram_plan import DISPLAY

    found = card()
    if found is None:
        return
    held = (found.total - found.free) / GIB
    text = f"{found.free / GIB:.1f} of {found.total / GIB:.1f} GiB free"
    if held <= DISPLAY:
        yield passed("VRAM", text)
        return
    named = (
        ", ".join(f"{name} {gib:.1f} GiB" for name, gib in holders()[:3]) or "programs that cannot be seen from here"
    )
    yield warns(
        "VRAM", f"{text}; held by {named}", f"end what is not needed: a plan counts on all but {DISPLAY:g} GiB."
    )


def bfloat16() -> Iterator[Finding]:
    """The precision a run chooses by itself."""
    found = card()
    if found is None:
        if other_accelerator() is None:
            yield passed("precision", "float32, as CPUs emulate bfloat16 slowly")
    elif found.has_bf16:
        yield passed("precision", f"bfloat16, native on {found.name}")
    else:
        yield warns(
            "precision",
            f"float16: {found.name} has no native bfloat16",
            "leave `bf16` and `dtype` out of the recipe, so that float16 with loss scaling is chosen.",
        )
