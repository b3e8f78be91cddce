"""Add settings about resuming to every trainer's configuration."""

from dataclasses import dataclass, field


@dataclass
class CheckpointOptions:
    """Settings about resuming."""

    resume_changed: bool = field(
        default=False,
        metadata={
            "help": "Allow resuming with other settings than those of the checkpoint, where they change the result (loss, "
            "beta, learning rate, data, …). Without it such a resume is refused."
        },
    )
