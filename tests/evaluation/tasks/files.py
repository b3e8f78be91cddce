"""A folder of task files with their data beside them, of every kind of request the harness has."""

import json
from pathlib import Path

from trl_ext import demo

DATA = """
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl, train: rows.jsonl}}
test_split: test
"""

CHOOSE = f"""task: choose
{DATA}
training_split: train
num_fewshot: 1
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""

WRITE = f"""task: write
{DATA}
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{first}}}}"
generation_kwargs: {{until: [" "], max_gen_toks: 6, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""

READ = f"""task: read
{DATA}
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
"""

GROUP = """group: both
task: [choose, other]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
"""


def write(folder: Path, rows: int = 12, **tasks: str) -> Path:
    """Make the folder with files of these texts (by default `choose`, `write` and `read`) and their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [json.loads(line) for line in (demo.DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()[:rows]]
    documents = [
        {
            "question": pair["prompt"][-1]["content"],
            "choices": [pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]],
            "first": pair["chosen"][-1]["content"].split()[0],
        }
        for pair in pairs
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, documents)))
    for name, text in (tasks or {"choose": CHOOSE, "write": WRITE, "read": READ}).items():
        (folder / f"{name}.yaml").write_text(text)
    return folder
