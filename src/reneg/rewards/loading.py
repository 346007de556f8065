"""Loading a scorer's weights, all of them or none."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel


def load_complete(model_class: type[PreTrainedModel], folder: Path, *, name: str, dtype: torch.dtype) -> Any:
    """Load `save_pretrained` weights in safetensors; no pickle is read.

    transformers fills weights that a folder lacks with random ones: a reward that means nothing. Refuse it.

    Raises:
        ValueError: the folder holds no such model, or not all of it.
    """
    load: Any = model_class.from_pretrained  # annotated as if it never gave the loading info
    try:
        model, info = load(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"reward {name!r} cannot be loaded as a {model_class.__name__}: {reason}") from error
    if info["missing_keys"]:
        missing = len(info["missing_keys"])
        raise ValueError(
            f"reward {name!r} is no whole {model_class.__name__}: {folder} lacks {missing} of its weights"
        )
    return model
