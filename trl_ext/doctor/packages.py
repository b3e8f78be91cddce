"""Check the versions of Python and packages against the requirements of the installed trl-ext."""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from trl_ext.doctor.finding import Finding, fails, passed

DISTRIBUTION = "trl-ext"
NAMED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")
"""Packages whose versions are always listed; the others are listed only if something is wrong."""


def python_and_packages() -> Iterator[Finding]:
    """Check that versions are in the ranges of the distribution's metadata, which come from `pyproject.toml`."""
    from packaging.requirements import Requirement

    found = declared()
    if found is None:
        yield fails(DISTRIBUTION, "not installed in this environment", "Run pip install -e . in its folder.")
        return
    python = ".".join(map(str, sys.version_info[:3]))
    required = Requirement(f"python{found[0]}").specifier
    if required.contains(python):
        yield passed("Python", python)
    else:
        yield fails("Python", f"{python}, but {required} is required", "Create an environment with another Python.")
    wrong = []
    for requirement in filter(_applies, map(Requirement, found[1])):
        there = installed(requirement.name)
        remedy = f"Run pip install '{requirement.name}{requirement.specifier}'"
        if there is None:
            wrong.append(fails(requirement.name, "not installed", remedy))
        # A nightly build or one for a CUDA version (2.13.0+cu130) counts as its release.
        elif not requirement.specifier.contains(there, prereleases=True):
            wrong.append(
                fails(requirement.name, f"{there}, but trl-ext is tested with {requirement.specifier}", remedy)
            )
    names = {finding.check for finding in wrong}
    good = [f"{name} {installed(name)}" for name in NAMED if name not in names]
    if good:
        yield passed("packages", ", ".join(good))
    yield from wrong


def declared() -> tuple[str, list[str]] | None:
    """The Python version and packages that trl-ext requires, from its metadata; `None` if it is not installed."""
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None
    return found.metadata["Requires-Python"] or "", found.requires or []


def installed(name: str) -> str | None:
    """The version of a package; `None` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _applies(requirement: object) -> bool:
    """Whether a requirement holds without extras, on this platform."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
