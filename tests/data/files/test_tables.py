"""Tables with other separators are read as tables."""

import pytest

from tests.data.rows import PLAIN
from trl_ext import data
from trl_ext.data.files.tables import other_separator
from trl_ext.data.recognise_file import recognise_file


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables(separator, ending, tmp_path):
    path = tmp_path / f"rows.{ending}"
    table = [["prompt", "chosen", "rejected"], *([f'"{text}"' for text in row.values()] for row in PLAIN)]
    path.write_text("\n".join(separator.join(cells) for cells in table))
    assert data.load(path).dataset.to_list() == PLAIN
    assert recognise_file(path).paired


def test_a_quoted_header_and_one_column(tmp_path):
    (tmp_path / "rows.csv").write_text('"prompt";"chosen";"rejected"\n"a, b";"c";"d"\n')
    assert data.load(tmp_path / "rows.csv").dataset[0] == {"prompt": "a, b", "chosen": "c", "rejected": "d"}
    assert other_separator(["prompt"]) is None and other_separator(["a;b", "c"]) is None
