"""Add settings about kernels to every trainer's configuration."""

from dataclasses import dataclass, field


@dataclass
class KernelOptions:
    """Settings about kernels."""

    fused_kernels: str = field(
        default="auto",
        metadata={
            "help": "Compute a LoRA and the addition to its layer's output in one product, and RMSNorm and the gated MLP with fewer "
            "stored tensors (with Liger on CUDA, if installed). `auto`: if outputs and gradients agree with those of PEFT and "
            "transformers, which is tested on the model before the first step. `none`: always by PEFT and transformers.",
            "choices": ["auto", "none"],
        },
    )
