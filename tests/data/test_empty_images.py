"""Columns of images without any image are left out, and images for a model that reads text only are refused in a sentence."""

import json

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PaliGemmaProcessor, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.data.rows import CONVERSATIONAL, PLAIN
from trl_ext import data, demo
from trl_ext.cli import main
from trl_ext.data.empty_images import without_empty_images
from trl_ext.inspection.check import require_vision
from trl_ext.support.errors import UserError


@pytest.mark.parametrize("rows", [PLAIN, CONVERSATIONAL])
@pytest.mark.parametrize("beside", [{"images": []}, {"images": None}, {"image": None}, {"image": ""}])
def test_no_row_has_an_image(write, rows, beside):
    loaded = data.load(write("pairs.jsonl", [{**row, **beside} for row in rows]))
    assert loaded.dataset.column_names == ["prompt", "chosen", "rejected"]
    assert f"Columns not used: {next(iter(beside))}." in loaded.report.sentences()


def test_declared_columns_of_images():
    features = Features({**dict.fromkeys(PLAIN[0], Value("string")), "images": List(Image())})
    empty = Dataset.from_list([{**row, "images": []} for row in PLAIN], features=features)
    assert without_empty_images(empty)[1] == ("images",)
    picture = [Picture.new("RGB", (2, 2))]
    given = [{**row, "images": picture if place else []} for place, row in enumerate(PLAIN)]
    some = Dataset.from_list(given, features=features)
    assert without_empty_images(some) == (some, ())


def test_a_model_that_reads_text_only(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "images": ["a.png"]} for row in PLAIN]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my.yaml").write_text("{model_name_or_path: embedded, dataset_name: pairs.jsonl}")
    assert main(["data", "my.yaml"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "The data has images (column `images` or `image`), and the model reads text only" in said
    with pytest.raises(UserError, match="Choose a vision-language model, or remove the column"):
        require_vision(AutoTokenizer.from_pretrained(demo.MODEL))


def test_a_processor_that_tokenises_nothing_without_images():
    """TRL's collators tokenise completions apart from the images of their prompts."""
    words = ["<pad>", "<unk>", "<bos>", "</s>", "<image>", "a"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", extra_special_tokens={"image_token": "<image>"}
    )
    pictures = SiglipImageProcessorPil(size={"height": 4, "width": 4})
    pictures.image_seq_length = 1
    with pytest.raises(
        UserError, match=r"which PaliGemmaProcessor does not do .*Choose another vision-language model"
    ):
        require_vision(PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer))
