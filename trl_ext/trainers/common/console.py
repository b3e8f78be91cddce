"""Print to the console while a progress bar is shown."""

from accelerate import Accelerator
from tqdm import tqdm

from trl_ext.support import terminal


def say(accelerator: Accelerator, text: str) -> None:
    """Print `text` once per run, on the main process, wrapped for a terminal and without breaking the progress bar."""
    if accelerator.is_main_process:
        tqdm.write(terminal.wrap(text))
