"""An adapter of every type and initialisation of PEFT on the tiny model; the rows of the table in docs/adapters.md."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import peft
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, LoraGAConfig, MontecloraConfig, VeloraConfig

from trl_ext.model_files import adapter_types
from trl_ext.model_files.adapter_types import Use

LINEAR = ["q_proj", "v_proj"]
TASK = "CAUSAL_LM"


class Case(NamedTuple):
    """An adapter.

    Attributes:
        title: For the table.
        make: Makes its configuration.
        content: Its adapter_config.json, for configurations that PEFT makes only with another package or with data.
    """

    title: str
    make: Callable[[], peft.PeftConfig] | None
    content: dict[str, Any] | None = None

    def config(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.content if self.make is None else self.make().to_dict()


def lora(**changes: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": TASK, **changes})


def made(name: str, title: str, **options: Any) -> Case:
    return Case(
        title,
        lambda: getattr(peft, name)(
            **{"target_modules": LINEAR, "task_type": TASK, "inference_mode": False, **options}
        ),
    )


def virtual(name: str, title: str, **options: Any) -> Case:
    return Case(title, lambda: getattr(peft, name)(task_type=TASK, **options))


def written(title: str, **content: Any) -> Case:
    return Case(title, None, {"peft_type": "LORA", "task_type": TASK, **content})


CASES = [
    Case("LoRA", lora),
    Case("LoRA with dropout", lambda: lora(lora_dropout=0.3)),
    Case("rsLoRA", lambda: lora(use_rslora=True)),
    Case("LoRA with `rank_pattern` and `alpha_pattern`", lambda: lora(rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 5})),
    Case("LoRA on embeddings", lambda: lora(target_modules=["embed_tokens", "q_proj"])),
    Case("LoRA on `target_parameters`", lambda: lora(target_modules=[], target_parameters=["mlp.gate_proj.weight"])),
    Case("LoRA with `lora_bias`", lambda: lora(lora_bias=True)),
    Case("LoRA with `modules_to_save`", lambda: lora(modules_to_save=["norm"])),
    Case("LoRA with `modules_to_save`: embeddings", lambda: lora(modules_to_save=["embed_tokens"])),
    Case("LoRA with `modules_to_save`: lm_head", lambda: lora(modules_to_save=["lm_head"])),
    Case("LoRA with `trainable_token_indices`", lambda: lora(trainable_token_indices=[5, 6])),
    Case("LoRA that trains biases", lambda: lora(bias="all")),
    Case("DoRA", lambda: lora(use_dora=True)),
    Case("DoRA on embeddings", lambda: lora(use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    Case("BD-LoRA", lambda: lora(
        use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2)
    )),
    Case("QA-LoRA", lambda: lora(use_qalora=True, qalora_group_size=8)),
    Case("VeLoRA", lambda: lora(velora_config=VeloraConfig())),
    Case("KaSA", lambda: lora(kasa_config=KasaConfig())),
    Case("MonteCLoRA", lambda: lora(monteclora_config=MontecloraConfig())),
    Case("aLoRA", lambda: lora(alora_invocation_tokens=[7, 8])),
    Case("LoRA with `layer_replication`", lambda: lora(layer_replication=[[0, 2], [1, 2]])),
    written("Arrow", arrow_config={"top_k": 1}),
    *(Case(f"LoRA, `init_lora_weights`: {init}", lambda init=init: lora(init_lora_weights=init)) for init in (
        False, "gaussian", "orthogonal", "eva", "mica", "pissa", "pissa_niter_4", "olora", "corda",
    )),
    Case("LoRA, `init_lora_weights`: lora_ga", lambda: lora(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())),
    written("LoRA, `init_lora_weights`: loftq", init_lora_weights="loftq"),  # needs scipy
    Case("AdaLoRA", lambda: peft.AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=LINEAR, task_type=TASK)),
    written("AdaMSS", peft_type="ADAMSS"),  # needs scikit-learn
    virtual("AdaptionPromptConfig", "adaption prompt", adapter_len=4, adapter_layers=1),
    made("BeftConfig", "BEFT"),
    made("BOFTConfig", "BOFT", boft_block_size=4),
    made("C3AConfig", "C3A", block_size=8),
    virtual("CartridgeConfig", "cartridge", num_virtual_tokens=4),
    virtual("CPTConfig", "CPT", cpt_token_ids=[1, 2, 3], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 3]),
    made("DeftConfig", "DEFT", r=4),
    made("DeloraConfig", "DeLoRA", r=4),
    made("FourierFTConfig", "FourierFT", n_frequency=16),
    made("FrodConfig", "FRoD"),
    made("GloraConfig", "GLoRA", r=4),
    made("GraloraConfig", "GraLoRA", r=4),
    made("HiraConfig", "HiRA", r=4),
    made("HRAConfig", "HRA", r=4),
    made("IA3Config", "IA3", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    made("LilyConfig", "Lily", r=4),
    virtual("LNTuningConfig", "layer-norm tuning"),
    made("LoHaConfig", "LoHa", r=4),
    made("LoKrConfig", "LoKr", r=4),
    made("MissConfig", "MiSS", r=4),
    made("MissConfig", "MiSS, `init_weights`: bat", r=4, init_weights="bat"),
    virtual("MultitaskPromptTuningConfig", "multitask prompt tuning", num_virtual_tokens=4, num_tasks=2),
    made("OFTConfig", "OFT", oft_block_size=8),
    made("OSFConfig", "OSF", effective_rank=8),
    virtual("PromptEncoderConfig", "p-tuning", num_virtual_tokens=4, encoder_hidden_size=16),
    made("PeanutConfig", "PEANuT", r=4),
    made("PolyConfig", "Poly", r=4, n_tasks=2, n_skills=2),
    virtual("PrefixTuningConfig", "prefix tuning", num_virtual_tokens=4),
    virtual("PromptTuningConfig", "prompt tuning", num_virtual_tokens=4),
    made("PsoftConfig", "PSOFT", r=4),
    made("PveraConfig", "PVeRA", r=16),
    made("RandLoraConfig", "RandLoRA", r=4),
    made("RoadConfig", "RoAd", group_size=8),
    virtual("ShadowConfig", "Shadow"),
    made("ShiraConfig", "SHiRA", r=2),
    made("SupertuningConfig", "supertuning"),
    made("TinyLoraConfig", "TinyLoRA"),
    virtual("TrainableTokensConfig", "trainable tokens", token_indices=[5, 6]),
    made("UniLoraConfig", "Uni-LoRA", r=4, theta_d_length=64),
    made("VBLoRAConfig", "VB-LoRA", r=4, vector_length=8, num_vectors=16),
    made("VeraConfig", "VeRA", r=16),
    made("WaveFTConfig", "WaveFT", n_frequency=16),
    written("X-LoRA", peft_type="XLORA"),
]  # fmt: skip

TRAINERS = ("DPO", "KTO", "PPO")
STATES = ("new", "continued")


def refusal(case: Case, state: str, trainer: str) -> str | None:
    """The reason why a cell of the table is refused; `None` if it is exact."""
    use = Use(is_continued=state == "continued", shares_base=trainer == "PPO")
    return adapter_types.problem(case.config(), use)


def is_exact_on_quantised_bases(case: Case) -> bool:
    """Whether a case that DPO trains exactly is exact on 4-bit and 8-bit bases too."""
    use = Use(is_continued=True, is_quantised=True)
    return refusal(case, "continued", "DPO") is None and adapter_types.problem(case.config(), use) is None


def quantised() -> str:
    """The cases that are exact on quantised bases."""
    return f"{'; '.join(case.title for case in CASES if is_exact_on_quantised_bases(case))}."


def general(case: Case, reason: str | None) -> str | None:
    """A reason without the names of the type and of the initialisation, which the row gives."""
    kind, init = adapter_types.type_of(case.config()), repr(case.config().get("init_lora_weights"))
    return reason and reason.replace(f"type {kind}", "type …").replace(init, "…")


def table() -> str:
    """Every case, new and continued, under every trainer, with the reasons of refusals as notes below."""
    reasons: list[str] = []
    lines = [
        f"| adapter | {' | '.join(f'{state}, {trainer}' for state in STATES for trainer in TRAINERS)} |",
        f"|---|{'---|' * len(STATES) * len(TRAINERS)}",
    ]
    for case in CASES:
        cells = []
        for state in STATES:
            for trainer in TRAINERS:
                reason = general(case, refusal(case, state, trainer))
                if reason is not None and reason not in reasons:
                    reasons.append(reason)
                cells.append("exact" if reason is None else f"refused ({reasons.index(reason) + 1})")
        lines.append(f"| {case.title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))])
