"""Tables of what depends on the internals of other libraries, and of the methods of TRL that are refused."""

from tests import next_trl
from tests.seams import SEAMS
from tests.trainers.test_overrides import OVERRIDES
from trl_ext.trainers.common import overrides as refused


def seams() -> str:
    """Every override and every use of another library's internals, by file, with the test that fails when it moves."""
    found: dict[str, dict[str, str]] = {}
    for trainer, overrides in OVERRIDES.items():
        for name, test in overrides.items():
            for cls in trainer.__mro__:
                if cls.__module__.startswith("trl_ext.") and name in vars(cls):
                    file = cls.__module__.removeprefix("trl_ext.").replace(".", "/") + ".py"
                    found.setdefault(file, {})[f"`{name}`"] = test
    rows = [
        (file, f"overrides {', '.join(sorted(tests))}", sorted(set(tests.values())))
        for file, tests in sorted(found.items())
    ]
    rows += [(seam.file, seam.relies_on, [seam.test]) for seam in SEAMS]
    lines = ["| file in `trl_ext/` | relies on | tests, in `tests/` |", "|---|---|---|"]
    lines += [f"| `{file}` | {relies} | {', '.join(f'`{test}`' for test in tests)} |" for file, relies, tests in rows]
    return "\n".join(lines)


def bypassed() -> str:
    """Methods of TRL's trainers that are refused in a subclass."""
    kinds = {"preferences": refused.OF_ROWS, "sampled pairs": refused.OF_LOSSES, "PPO": refused.OF_PPO}
    rows: dict[str, dict[str, list[str]]] = {}
    for kind, bypassed in kinds.items():
        for name, remedy in bypassed.items():
            rows.setdefault(remedy, {}).setdefault(name, []).append(kind)
    lines = ["| method | in training on | instead |", "|---|---|---|"]
    for remedy, methods in rows.items():
        for trained in dict.fromkeys(map(tuple, methods.values())):
            names = ", ".join(f"`{name}`" for name, own in methods.items() if tuple(own) == trained)
            lines.append(f"| {names} | {', '.join(trained)} | {remedy} |")
    older: dict[str, list[str]] = {}
    for name, remedy in refused.OF_OLDER_TRL.items():
        older.setdefault(remedy, []).append(f"`{name}`")
    lines += [f"| {', '.join(names)} (older TRL) | preferences | {remedy} |" for remedy, names in older.items()]
    return "\n".join(lines)


def next_trl_parts() -> str:
    """Files of TRL that ours follow, and the tests that compare the two."""
    lines = [
        "| file in `trl/` | read the difference of | ours, in `trl_ext/` | tests, in `tests/` |",
        "|---|---|---|---|",
    ]
    for part in next_trl.PARTS:
        names = ", ".join(f"`{name}`" for name in part.names) or "all"
        lines.append(f"| `{part.file}` | {names} | `{part.ours}` | {', '.join(f'`{test}`' for test in part.tests)} |")
    return "\n".join(lines)


def announced() -> str:
    """What the installed TRL announces to remove, and what that concerns here."""
    lines = ["| TRL warns of | concerns here |", "|---|---|"]
    return "\n".join([*lines, *(f"| {removal.name} | {removal.ours} |" for removal in next_trl.ANNOUNCED)])
