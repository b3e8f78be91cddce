"""Check the GPU: that there is one and torch can use it, its free memory, and its precision."""

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
GET_TORCH = "see https://pytorch.org/get-started/locally for the command"
NEEDS_A_GPU = "The demo, `plan` and `validate` work without one; training real models needs a GPU"


@dataclass(frozen=True)
class Build:
    """The platforms the installed torch was built for.

    Attributes:
        version: Of torch.
        cuda, hip: Version of CUDA or ROCm, or `None`.
        architectures: GPU architectures, as ``sm_90`` (machine code) or ``compute_90`` (compiled further by the driver).
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
    """The first card, which a run uses; `None` if torch cannot use any."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Card(properties.name, (properties.major, properties.minor), free, total, is_native)


def cards() -> int:
    """The number of cards."""
    import torch

    return torch.cuda.device_count()


def other_accelerator() -> str | None:
    """Torch's name of an accelerator other than a CUDA or ROCm card: `mps`, `xpu`; `None` without one."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    return None if kind is None or kind.type == "cuda" else kind.type


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver supports, asked from the driver; `None` without a driver."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0 or number.value == 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def nvidia_smi(*query: str) -> list[list[str]]:
    """Rows printed by `nvidia-smi`; empty if the program is missing or fails."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", *query, "--format=csv,noheader,nounits"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
    return [[cell.strip() for cell in row.split(",")] for row in rows]


def has_amd_card() -> bool:
    return Path("/dev/kfd").exists()


def holders() -> list[tuple[str, float]]:
    """Other programs that use memory of the card, largest first: name with process id, GiB."""
    found = []
    for pid, name, *mebibytes in nvidia_smi("--query-compute-apps=pid,process_name,used_memory"):
        if pid != str(os.getpid()) and mebibytes and mebibytes[-1].isdigit():
            found.append((f"{Path(name).name} (pid {pid})", int(mebibytes[-1]) / 1024))
    return sorted(found, key=lambda holder: -holder[1])


def gpu() -> Iterator[Finding]:
    """Describe the GPU, or why torch cannot use it."""
    made, found = build(), card()
    if found is None:
        yield _without(made)
        return
    several = f" (the first of {cards()})" if cards() > 1 else ""
    if made.hip:
        yield warns(
            "GPU",
            f"{found.name}{several}, ROCm {made.hip}",
            "trl-ext is tested on NVIDIA cards: check the lines on bitsandbytes and attention below.",
        )
        return
    driver = driver_cuda()
    runs = f", driver for CUDA {driver[0]}.{driver[1]}" if driver else ""
    text = f"{found.name}{several}, compute capability {'.'.join(map(str, found.capability))}{runs}, torch for {made.cuda}"
    if made.architectures and not _is_compiled_for(found.capability, made.architectures):
        yield fails(
            "GPU",
            f"{text}; this torch has no code for this card (only {', '.join(made.architectures)})",
            f"Install a torch built for it: {GET_TORCH}.",
        )
        return
    yield passed("GPU", text)


def _without(made: Build) -> Finding:
    """Why no CUDA or ROCm card can be used."""
    named = nvidia_smi("--query-gpu=name")
    name = named[0][0] if named else "an NVIDIA card"
    if (named or driver_cuda()) and made.cuda is None and made.hip is None:
        return fails(
            "GPU", f"{name}, but torch {made.version} is built for CPUs", f"Install torch for CUDA: {GET_TORCH}."
        )
    if (driver := driver_cuda()) and made.cuda and driver[0] < int(made.cuda.partition(".")[0]):
        return fails(
            "GPU",
            f"{name}, whose driver supports CUDA {driver[0]}.{driver[1]}, but torch is built for CUDA {made.cuda}",
            f"Update the NVIDIA driver, or install torch for CUDA {driver[0]}: {GET_TORCH}.",
        )
    if "CUDA_VISIBLE_DEVICES" in os.environ and named:
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        return fails("GPU", f"{name}, hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "Unset it, or set it to 0.")
    if named:
        return fails(
            "GPU",
            f"{name}, but torch cannot use it",
            'Run python -c "import torch; torch.cuda.init()" to see the error.',
        )
    if has_amd_card() and made.hip is None:
        return warns("GPU", "an AMD card, but torch is not built for ROCm", f"Install torch for ROCm: {GET_TORCH}.")
    if (other := other_accelerator()) is not None:
        name = {"mps": "Apple GPU (Metal)", "xpu": "Intel GPU"}.get(other, other)
        remedy = "trl-ext is tested on NVIDIA cards: check the lines on bitsandbytes and attention below."
        return warns("GPU", name, remedy)
    return warns("GPU", "none; everything runs on the CPU", f"{NEEDS_A_GPU}.")


def _is_compiled_for(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Machine code runs on cards of the same major version with the same or a later minor version, PTX on all later cards."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = "".join(filter(str.isdigit, digits))
        major, minor = int(number[:-1]), int(number[-1])
        if (kind == "compute" and (major, minor) <= capability) or (major == capability[0] and minor <= capability[1]):
            return True
    return False


def memory() -> Iterator[Finding]:
    """Check the free memory of the card; name the programs that use the rest."""
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
        ", ".join(f"{name} {gib:.1f} GiB" for name, gib in holders()[:3]) or "programs that are not visible from here"
    )
    yield warns(
        "VRAM",
        f"{text}; the rest is used by {named}",
        f"End programs you do not need: plans assume that all but {DISPLAY:g} GiB are free.",
    )


def bfloat16() -> Iterator[Finding]:
    """Report the precision a run chooses by default."""
    found = card()
    if found is None:
        if other_accelerator() is None:
            yield passed("precision", "float32, because CPUs emulate bfloat16 slowly")
    elif found.has_bf16:
        yield passed("precision", f"bfloat16, native on {found.name}")
    else:
        yield warns(
            "precision",
            f"float16: {found.name} has no native bfloat16",
            "Leave `bf16` and `dtype` out of the recipe; float16 with loss scaling is then chosen.",
        )
