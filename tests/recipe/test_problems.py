"""One clear sentence per mistake, all in one go, before anything heavy is imported."""

import pytest

from tests.recipe.helpers import load, load_from, problem, problems


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # names
        ("lora_rnak: 3\n", "`lora_rnak` (line 3) is not a setting: did you mean `lora_r`"),
        ("learning-rate: 1e-5\n", "did you mean `learning_rate`"),
        ("zzz: 1\n", "`zzz` (line 3) is not a setting: check its spelling, or remove it."),
        # types and bounds
        ("learning_rate: fast\n", "`learning_rate` (line 3) is 'fast': give a number."),
        ("learning_rate: 0\n", "is 0: give a number greater than 0 and at most 1, 5e-6 for instance."),
        ("learning_rate: 5.0e+6\n", "is 5000000.0: give a number greater than 0 and at most 1"),
        ("warmup_steps: 1.5\n", "is 1.5: give 0, a whole number of steps, or a share of them below 1."),
        ("save_steps: 1.5\n", "is 1.5: give a whole number of steps, or a share of them between 0 and 1."),
        ("report_to: [none, wandbb]\n", "names 'wandbb': did you mean wandb?"),
        ("loss: 'dpo,ipo'\n", "To mix losses, give their weights"),
        ("learning_rate: .nan\n", "is nan: give a number greater than 0 and at most 1"),
        ("learning_rate: .inf\n", "is inf: give a number greater than 0 and at most 1"),
        ("max_length: 0\n", "`max_length` (line 3) is 0: give a whole number of at least 1."),
        ("per_device_train_batch_size: 1.5\n", "is 1.5: give a whole number."),
        ("num_train_epochs:\n", "is empty: give a number, or remove the line."),
        ("optim: adamw_8bits\n", "did you mean adamw_8bit"),
        ("optim: adam\n", "did you mean adamw_8bit, adamw_torch or adamw_bnb_8bit?"),
        ("attn_implementation: flash\n", "which transformers does not have: did you mean flash_attention_4"),
        (
            "loss: '{dpo: 1.0, sft'\n",
            "is '{dpo: 1.0, sft', which lacks its closing brace. Write, for instance, {dpo: 1, sft: 0.1}.",
        ),
        ("lr_scheduler_type: cosin\n", "did you mean cosine"),
        ("eval_size: 1.5\n", "give a number of examples from 1, or a share between 0 and 1."),
        ("max_steps: 0\n", "give at least 1, or -1 to count epochs."),
        ("row_tokens: much\n", "is 'much': give a number of tokens of at least 1, or 'auto'."),
        ("row_tokens: 0\n", "give a whole number of at least 1."),
        ("lora_dtype: float16\n", "Allowed are bfloat16, float32."),
        ("bnb_4bit_compute_dtype: float64\n", "did you mean float"),
        ("dataset_format: hhh\n", "`dataset_format` (line 3) is hhh: did you mean hh?"),
        ('dataset_format: "a\\nb\\u2028c"\n', "`dataset_format` (line 3) is a\\nb\\u2028c: allowed are"),
        ("dataset_columns: {prompt: [a]}\n", "maps to a value that is not the name of a column"),
        ("env: [a]\n", "`env` (line 3) is not a mapping of names to values"),
        # the loss and its hyperparameters
        ("loss: dop\n", "`loss` (line 3): There is no loss 'dop'. Did you mean dpo"),
        ("loss: 3\n", "`loss` (line 3) is 3. Give the name of a loss"),
        ("loss: {dpo: 1, kto: 1}\n", "read different data"),
        ("loss: {dpo: -1, sft: 1}\n", "weight of dpo must be a positive finite number"),
        ("loss: {dpo: 1, sigmoid: 1}\n", "names dpo a second time"),
        (
            "loss: ipo\nloss_type: [sigmoid]\n",
            "`loss` (line 3) is ipo and `loss_type` (line 4) is dpo. Keep one",
        ),
        ("loss_type: [sigmoid, sft]\nloss_weights: [0.5]\n", "has 1 weight for 2 losses. Give one for each."),
        ("loss_weights: [0.5]\n", "has no `loss_type` to weight"),
        ("beta: 0\n", "`beta` (line 3) is 0, and dpo needs a number greater than 0."),
        ("loss: ipo\nbeta: -1\n", "`beta` (line 4) is -1, and ipo needs a number greater than 0."),
        ("loss: dpop\ndpop_lambda: true\n", "`dpop_lambda` (line 4) is true, and dpop needs a number of at least 0."),
        ("loss: dpop\ndpop_lambda: [1]\n", "`dpop_lambda` (line 4) is a list, and dpop needs a number of at least 0."),
        ("loss: robust\nlabel_smoothing: 0.5\n", "needs a probability of at least 0 and below 0.5."),
        ("loss: simpo\ngamma: 1\ngamma_beta_ratio: 0.5\n", "simpo takes gamma_beta_ratio or gamma, not both"),
        (
            "loss: ipo\nlabel_smoothing: 0.1\n",
            "`label_smoothing` (line 4) is not read by the loss ipo, which reads",
        ),
        ("gamma: 1\n", "is not read by the loss dpo, which reads beta"),
        ("gamma: 1\n", "choose a loss that reads it (alphapo, simpo, tpo_l)."),
        ("loss_kwargs: {beat: 1}\n", "did you mean `beta`?"),
        ("loss_kwargs: 3\n", "`loss_kwargs` (line 3) is 3. Give a mapping"),
        (
            "beta: 0.1\nloss_kwargs: {beta: 0.2}\n",
            "`beta` (line 3) is 0.1, and in `loss_kwargs` (line 4) it is 0.2. Keep one",
        ),
        ("loss: {dpo: 1, sft: 1}\ngamma: 1\n", "is not read by the loss dpo + sft"),
        ("loss: {dpo: 1, sft: 1}\nloss_kwargs: {ipo: {beta: 1}}\n", "'ipo' is not a component of dpo + sft"),
        ("f_divergence_type: kl\n", "needs one of 'reverse_kl', 'forward_kl'"),
        ("f_alpha_divergence_coef: 0.3\n", "only with f_divergence_type: alpha_divergence"),
        (
            "loss: kto\nuse_weighting: true\n",
            "`use_weighting` (line 4) is a setting for pairs, and the loss kto trains",
        ),
        ("loss: dpo\ndesirable_weight: 2\n", "`desirable_weight` (line 4) is not read by the loss dpo"),
        ("loss: kto\ndesirable_weight: automatic\n", "needs a number greater than 0, or 'auto'."),
        # model, quantisation, adapter, precision
        (
            "use_peft: true\nload_in_4bit: true\nload_in_8bit: true\n",
            "(line 4) and `load_in_8bit` (line 5) are both true",
        ),
        ("load_in_4bit: true\n", "nothing would be trained: add `use_peft: true`"),
        ("lora_r: 8\nlora_alpha: 16\n", "`lora_r` (line 3) and `lora_alpha` (line 4) would be ignored"),
        (
            "use_peft: true\nlora_target_modules: [q_proj, lm_head]\n",
            "includes lm_head. Its weight is read directly",
        ),
        ("use_peft: true\nlora_target_modules: lm_head\n", "includes lm_head"),
        ("use_peft: true\nlora_target_modules: model.lm_head\n", "includes lm_head"),
        ("use_peft: true\nlora_target_modules: .*\n", "includes lm_head"),
        ("bf16: true\nfp16: true\n", "`bf16` (line 3) and `fp16` (line 4) are both true"),
        # reference refresh
        (
            "loss: simpo\nsync_ref_model: true\n",
            "`sync_ref_model` (line 4) updates the reference, and the loss simpo does not read one",
        ),
        (
            "ref_model_sync_steps: 64\n",
            "`ref_model_sync_steps` (line 3) would be ignored: add `sync_ref_model: true`.",
        ),
        ("sync_ref_model: true\nprecompute_ref_log_probs: true\n", "are wrong once the reference changes"),
        (
            "precompute_ref_log_probs: true\nmax_steps: 1\ndataset_streaming: true\n",
            "`precompute_ref_log_probs` (line 3) reads all rows before training, because no reference model is kept without an "
            "adapter, and `dataset_streaming` (line 5) reads them during training.",
        ),
        ("sync_ref_model: true\nref_model_mixup_alpha: 0\n", "is 0, which never changes the reference"),
        (
            "use_peft: true\nuse_dora: true\nsync_ref_model: true\n",
            "`use_dora` (line 4) adds other weights to the adapter",
        ),
        # what is refused
        (
            "deepspeed: ds.json\n",
            "`deepspeed` (line 3) is not supported: DeepSpeed counts accumulation steps itself",
        ),
        (
            "use_peft: true\nrow_tokens: 512\nfsdp: true\n",
            "`fsdp` (line 5) needs the same checkpointed layers on all GPUs",
        ),
        ("label_smoothing_factor: 0.1\n", "Some losses read `label_smoothing`: use that instead."),
        ("load_best_model_at_end: true\n", "add `eval_strategy: steps`"),
        ("datasets: [{name: x}]\n", "Entry 1 of `datasets` (line 3) names no dataset"),
        ("datasets: [{path: a/b, spilt: x}]\n", "`spilt` is not a setting of a dataset: did you mean split?"),
        (
            "datasets: [{path: a/b, fraction: half}]\n",
            "Entry 1 of `datasets` (line 3): `fraction` is 'half': give a number",
        ),
        ("datasets: [{path: a/b, fraction: 1}, {path: c/d}]\n", "give every entry a `fraction`, or none of them."),
        ("datasets: [{path: ./none.json}]\n", "holds no such file or folder: check the path."),
    ],
)
def test_one_mistake_one_sentence(tmp_path, text, sentence):
    assert sentence in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"learning_rte": 1}, "`--learning_rte` is not a setting: did you mean `learning_rate`"),
        ({"beta": -1}, "`--beta` is -1, and dpo needs a number greater than 0."),
        ({"loss": "kto", "use_weighting": True}, "`--use_weighting` is a setting for pairs"),
        ({"bf16": True, "fp16": True}, "`--bf16` and `--fp16` are both true"),
        ({"no_such_thing": True}, "`--no_such_thing` is not a setting"),
    ],
)
def test_flags_are_named_as_flags(tmp_path, flags, sentence):
    assert sentence in problem(tmp_path, "", **flags)


def test_an_unread_hyperparameter_of_the_files_own_loss_is_shown_its_place(tmp_path):
    sentence = problem(tmp_path, "loss: dpo\nbeta: 0.2\n", loss="sft")
    assert sentence.endswith("Remove it, or keep it for dpo as `variants: {dpo: {beta: 0.2}}`.")


def test_what_is_missing(tmp_path):
    found = problems(tmp_path, "", base="loss: dpo\n")
    assert [sentence.split(" is missing")[0] for sentence in found] == [
        "`model_name_or_path`",
        "`dataset_name`",
    ]
    assert all("'embedded'" in sentence for sentence in found)


def test_what_is_misspelt_is_not_also_missing(tmp_path):
    found = problems(tmp_path, "", base="base_model: x\ndataset_nam: y\n")
    assert [sentence.split()[0] for sentence in found] == ["`base_model`", "`dataset_nam`"]


def test_in_the_order_of_the_file_then_flags(tmp_path):
    text = "variants: {ipo: {beta: 0}}\nlearning_rate: fast\nbeta: 0\nbeta: 1\nlora_rank: 8\n"
    found = problems(tmp_path, text, bta=1)
    named = [sentence.split("`")[1] for sentence in found]
    assert named == ["variants.ipo.beta", "learning_rate", "beta", "lora_rank", "--bta"]


def test_all_in_one_go(tmp_path):
    found = problems(
        tmp_path,
        "lora_rank: 8\nlearning_rate: fast\nbeta: -1\nbeta: -1\nload_in_4bit: true\nloss: simppo\n",
        fp16=True,
        bf16=True,
    )
    text = "\n".join(found)
    named = ("lora_rank", "learning_rate", "beta", "load_in_4bit", "simppo", "--bf16")
    assert all(name in text for name in named) and len(found) == 6


@pytest.mark.parametrize(
    "text",
    [
        "max_length: null\nlora_target_modules: null\nreport_to: none\n",
        "save_strategy: no\neval_strategy: 'no'\n",
        "max_steps: -1\nwarmup_steps: 0.1\nrow_tokens: auto\nresume_from_checkpoint: true\n",
        "learning_rate: '5e-6'\nbf16: 'true'\nper_device_train_batch_size: 1e1\n",
        "fp16: true\nbf16: false\nfsdp: ''\ndeepspeed: null\nauto_find_batch_size: false\n",
        "no_remove_unused_columns: true\nuse_peft: false\nlora_r: 8\n",
        "env: {A: 1}\ndataset_columns: {prompt: question, chosen: good, rejected: bad}\n",
        "report_to: [wandb, trackio]\nrun_name: 2025-01-31\n",
    ],
)
def test_what_is_allowed(tmp_path, text):
    assert load(tmp_path, text).values["dataset_name"] == "embedded"


def test_negated_flags(tmp_path):
    assert load(tmp_path, "", no_remove_unused_columns=True).values["remove_unused_columns"] is False


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sft").mkdir(parents=True)
    (tmp_path / "prefs.jsonl").write_text('{"prompt": "p", "chosen": "good", "rejected": "bad"}\n')
    data = "model_name_or_path: embedded\ndataset_name: {}\n"
    model = "model_name_or_path: {}\ndataset_name: embedded\n"
    for name in ("prefs.jsonl", "./prefs.jsonl", "org/name", "squad"):
        load_from(tmp_path, data.format(name))
    for name in ("org/name-7B", "gpt2", "Qwen/Qwen3-0.6B"):
        load_from(tmp_path, model.format(name))
    assert "has no file that can be read" in problem(tmp_path, "", base=data.format("models"))
    assert "did you mean prefs.jsonl?" in problem(tmp_path, "", base=data.format("perfs.jsonl"))
    assert "holds no such file or folder: check" in problem(tmp_path, "", base=data.format("other.csv"))
    assert "there is no folder data: check" in problem(tmp_path, "", base=data.format("./data/x"))
    assert "did you mean models/sft?" in problem(tmp_path, "", base=model.format("./models/sfft"))
    assert "there is no folder /no/where/at/all: check the path" in problem(
        tmp_path, "", base=model.format("/no/where/at/all/x")
    )
    assert "holds no config.json" in problem(tmp_path, "", base=model.format("models/sft"))
    (tmp_path / "models" / "sft" / "config.json").touch()
    load_from(tmp_path, model.format("models/sft"))
    assert "did you mean models/sft?" in problem(tmp_path, "", base=model.format("models"))
    assert "is the file" in problem(tmp_path, "", base=model.format("models/sft/config.json"))


def test_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoint-10").mkdir(parents=True)
    assert "did you mean run?" in problem(tmp_path, "resume_from_checkpoint: runn\n")
    assert "did you mean run/checkpoint-10?" in problem(tmp_path, "resume_from_checkpoint: run\n")
    (tmp_path / "run" / "checkpoint-10" / "trainer_state.json").touch()
    assert load(tmp_path, "resume_from_checkpoint: run/checkpoint-10\n")


def test_notes(tmp_path):
    assert "the mixture `datasets` is used" in load(tmp_path, "datasets: [{path: a/b}]\n").notes[0]
    assert "the run does not evaluate on them" in load(tmp_path, "eval_size: 10\n").notes[0]
