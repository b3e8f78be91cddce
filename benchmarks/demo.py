"""Train the demo with four losses and two seeds, and save what the README shows of it.

    python -m benchmarks.demo [--runs DIR]

`trl-ext compare` trains and evaluates the runs; those that are finished in DIR are not trained again. `make docs` draws the
pictures and writes the table from the saved results. About 6 minutes on one CPU core.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import trl

from trl_ext.cli import main as trl_ext
from trl_ext.evaluation import results
from trl_ext.report import metrics_file

RESULTS = Path(__file__).parent / "results" / "demo.json"
LOSSES, SEEDS = ("dpo", "ipo", "simpo", "kto"), (0, 1)
CURVES = "dpo-seed0"
"""The run whose curves are shown."""


def compared(
    losses: Sequence[str], seeds: Sequence[int], runs: Path, flags: Sequence[str] = ()
) -> tuple[dict, list[dict], int]:
    """Train and evaluate the demo with losses and seeds, except for runs that are finished in this directory.

    Args:
        losses: By name.
        seeds: Of each loss.
        runs: The directory.
        flags: Further flags of all runs.

    Returns:
        The results of the base, those of the runs, and the number of completions of each.
    """
    grid = ["--losses", ",".join(losses), "--seeds", ",".join(map(str, seeds))]
    if (code := trl_ext(["compare", "demo", *grid, *flags, "--output_dir", str(runs)])) != 0:
        raise SystemExit(code)
    records = [
        json.loads((runs / f"{loss}-seed{seed}" / "measured.json").read_text(encoding="utf-8"))
        for loss in losses
        for seed in seeds
    ]
    base = results.of_base(records[0]["evaluation"])
    rows = [
        results.of_run(each["evaluation"], **{key: each[key] for key in ("name", "loss", "beta", "seed")})
        for each in records
    ]
    for row in (base, *rows):
        del row["samples"]
    return base, rows, records[0]["evaluation"]["sampled"]["n"]


def provenance() -> dict:
    """When, on what and with which versions something was measured."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"CPU ({platform.machine()})",
        "versions": {module.__name__: module.__version__ for module in (torch, trl)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs",
        default="runs/benchmark-demo",
        metavar="DIR",
        help="directory of the runs (default: runs/benchmark-demo)",
    )
    runs = Path(parser.parse_args().runs)
    base, rows, completions = compared(LOSSES, SEEDS, runs)
    metrics = [record for record in metrics_file.read(runs / CURVES / "metrics.jsonl") if "loss" in record]
    record = provenance() | {"completions": completions, "base": base, "rows": rows, "metrics": metrics}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"saved {RESULTS}. `make docs` draws the pictures.")


if __name__ == "__main__":
    main()
