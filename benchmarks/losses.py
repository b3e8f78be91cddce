"""Train the demo with losses and four seeds each, and save reward, fluency and KL for the table of docs/losses.md.

    python -m benchmarks.losses [--losses dpop,simper,dpo-humanline] [--runs DIR]

`trl-ext compare` trains and evaluates the runs of each loss as recipes/demo.yaml sets it up; finished runs are not trained again,
also after an interrupt. A loss is saved when its four runs are finished, and those that are not named keep their results. About one
minute per run on one CPU core.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from benchmarks.demo import compared, provenance
from trl_ext import losses
from trl_ext.checks import humanline

RESULTS = Path(__file__).parent / "results" / "losses.json"
SEEDS = (0, 1, 2, 3)
YARDSTICK = "dpo"
"""The loss that others are read against."""
HUMANLINE = {f"{loss}, humanline": loss for loss in humanline.LOSSES}
"""Humanline variants by their name in the results, and their losses."""
OF_HUMANLINE = (
    *("--humanline", "true", "--sync_ref_model", "true"),
    *("--ref_model_mixup_alpha", "1.0", "--ref_model_sync_steps", "1"),
    *("--learning_rate", "3e-4"),
)
"""The rate is that of the demo's losses without a reference: a reference that follows does not limit the distance either."""
MEASURES = {"reward": "score/true reward", "fluency": "score/sentences that parse", "kl": "kl"}


def measure(name: str, runs: Path) -> dict:
    """Train one loss or humanline variant with every seed, and return its results, those of the base, and what was measured on."""
    loss = losses.canonical(HUMANLINE.get(name, name))
    flags = OF_HUMANLINE if name in HUMANLINE else ()
    base, rows, samples = compared((loss,), SEEDS, runs / name.replace(", ", "-"), flags)
    kept = [{"seed": row["seed"], **{key: row[name]["value"] for key, name in MEASURES.items()}} for row in rows]
    before = {key: base[name]["value"] for key, name in MEASURES.items()}
    return {"beta": rows[0]["beta"], "runs": kept, "base": before, "completions": samples, **provenance()}


def table() -> str:
    """The measured losses by their KL, in Markdown: mean over seeds, and their standard deviation."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["| | true reward | KL to the base, nats | sentences that parse |", "|---|---|---|---|"]
    base = record[YARDSTICK]["base"]
    lines.append(f"| before | {base['reward']:.3f} | 0 | {base['fluency']:.3f} |")
    spreads = {name: {key: _spread(found, key) for key in MEASURES} for name, found in record.items()}
    for name, of in sorted(spreads.items(), key=lambda item: item[1]["kl"]):
        cells = [
            "{:.3f} ± {:.3f}".format(*of["reward"]),
            "{:.2f} ± {:.2f}".format(*of["kl"]),
            f"{of['fluency'][0]:.3f}",
        ]
        title = name.replace(HUMANLINE[name], f"`{HUMANLINE[name]}`") if name in HUMANLINE else f"`{name}`"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    some = record[YARDSTICK]
    note = (
        f"Mean and standard deviation of {len(SEEDS)} seeds; {some['completions']} held-out prompts; measured "
        f"{some['date']} on a CPU with `python -m benchmarks.losses`."
    )
    return "\n".join([*lines, "", note])


def _spread(found: dict, key: str) -> tuple[float, float]:
    values = [run[key] for run in found["runs"]]
    return statistics.fmean(values), statistics.stdev(values)


def _save(record: dict) -> None:
    draft = RESULTS.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--losses",
        metavar="A,B",
        help="losses to measure; LOSS-humanline is a humanline variant (default: all without results)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/benchmark-losses"),
        metavar="DIR",
        help="directory of the runs (default: runs/benchmark-losses)",
    )
    words = parser.parse_args()
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known = [*losses.available(), *HUMANLINE]
    named = words.losses.split(",") if words.losses else [name for name in known if name not in record]
    named = [
        f"{name.removesuffix('-humanline')}, humanline" if name.endswith("-humanline") else name for name in named
    ]
    for name in named:
        found = measure(name, words.runs)
        record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        _save(dict(sorted((record | {name: found}).items())))
        print(f"{name}: saved in {RESULTS}. `make docs` writes the table.", flush=True)


if __name__ == "__main__":
    main()
