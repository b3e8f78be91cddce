"""Print to the console while a progress bar is shown."""

from accelerate import Accelerator
from tqdm import tqdm


def say(accelerator: Accelerator, text: str) -> None:
    """Print `text` once per run, on the main process, without breaking the progress bar."""
    if accelerator.is_main_process:
        tqdm.write(text)
