"""What every trainer adds to its configuration for the sake of its checkpoints."""

from dataclasses import dataclass, field


@dataclass
class CheckpointOptions:
    """Resuming."""

    resume_changed: bool = field(
        default=False,
        metadata={
            "help": "Resume although settings that change the result (loss, beta, learning rate, data, …) are others than "
            "the checkpoint was written with, which is refused otherwise."
        },
    )
