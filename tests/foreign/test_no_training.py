"""A file that describes no training is told so in one sentence, by every verb that reads a recipe."""

import pytest

from trl_ext.cli import main

FILES = {
    "accelerate": "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\nnum_processes: 2\n",
    "DeepSpeed": "zero_optimization: {stage: 3}\ntrain_micro_batch_size_per_gpu: auto\n",
    "LLaMA-Factory": "model_name_or_path: org/model\nadapter_name_or_path: saves/x\ntemplate: llama3\nexport_dir: merged\n",
}


@pytest.mark.parametrize("verb", ["validate", "run", "plan", "convert"])
@pytest.mark.parametrize("program", FILES)
def test_one_sentence(program, verb, tmp_path, capsys):
    path = tmp_path / "file.yaml"
    path.write_text(FILES[program])
    assert main([verb, str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trl-ext: {path}: this") and program in said
    assert "problems" not in said and "is not a setting" not in said and "writes this file" not in said
    assert list(tmp_path.iterdir()) == [path]
