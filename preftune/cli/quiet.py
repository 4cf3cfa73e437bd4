"""The libraries below told to keep their bars and advice to themselves; their errors still come through."""

from __future__ import annotations

import os
import warnings
from logging import ERROR, getLogger


def quieten_libraries() -> None:
    """To be called before transformers is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(peft|transformers|torch)\..*")
    getLogger("bitsandbytes").setLevel(ERROR)  # which tells every process of a kernel it did not find
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
