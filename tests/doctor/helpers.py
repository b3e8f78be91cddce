"""Cards, builds of torch, and what one finding says."""

from collections.abc import Iterable

from trl_ext.doctor.finding import Finding
from trl_ext.doctor.gpu import Build, Card

GIB = 2**30
CUDA = Build("2.13.0+cu130", "13.0", None, ("sm_75", "sm_80", "sm_90", "sm_120", "compute_120"))
CPUS = Build("2.13.0+cpu", None, None, ())
ADA = Card("NVIDIA GeForce RTX 4090", (8, 9), 23 * GIB, 24 * GIB, True)
TURING = Card("NVIDIA GeForce RTX 2080 Ti", (7, 5), 10 * GIB, 11 * GIB, False)
PASCAL = Card("NVIDIA GeForce GTX 1080", (6, 1), 7 * GIB, 8 * GIB, False)
RECIPE = "model_name_or_path: {model}\ndataset_name: {dataset}\nuse_peft: true\n{more}"


def only(findings: Iterable[Finding]) -> tuple[str, str, str]:
    """Status, finding and remedy of the one finding."""
    (finding,) = findings
    return str(finding.status), finding.found, finding.remedy
