"""Loading a scorer's weights, all of them or none, from a folder or the hub."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

Kind = Literal["clip", "cosine", "vision", "laion", "hps", "imagereward"]
"""How a reward's weights are read, and its formula."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class RewardSource:
    """Where a reward's weights are, and how they are read."""

    kind: Kind
    location: Path | str | None
    """A folder, or a hub id as text; None where the weights are on no hub, so that their file has to be given."""
    weights: str | None = None
    """The file in it, where the weights are not in transformers' layout."""
    companion: str | None = None
    """Hub id of what the location lacks: tokenizer, image processor or backbone."""


@dataclass(frozen=True)
class Settings:
    """How a reward is loaded."""

    name: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    published: bool = False
    """The path that published numbers come from, without a gradient, instead of the differentiable one."""


def load_complete(
    model_class: type[PreTrainedModel], location: Path | str | None, settings: Settings, *, what: str = "reward"
) -> Any:
    """Load `save_pretrained` weights in safetensors; no pickle is read.

    transformers fills weights that a folder lacks with random ones: a reward that means nothing. Refuse it.

    Raises:
        ValueError: the folder or hub repository holds no such model, or not all of it.
    """
    load: Any = model_class.from_pretrained  # annotated as if it never gave the loading info
    config_class: Any = model_class.config_class
    name = settings.name
    try:
        config = config_class.from_pretrained(location)
        # A tower of a whole CLIPModel: only the whole's configuration is sure to have the width of the common space.
        config.projection_dim = AutoConfig.from_pretrained(str(location)).projection_dim
        options = {"dtype": settings.dtype, "use_safetensors": True, "output_loading_info": True}
        model, info = load(location, config=config, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{what} {name!r} cannot be loaded as a {model_class.__name__}: {reason}") from error
    if info["missing_keys"]:
        missing = len(info["missing_keys"])
        raise ValueError(
            f"{what} {name!r} is no whole {model_class.__name__}: {location} lacks {missing} of its weights"
        )
    return model


def load_tokenizer(tokenizer_class: Any, source: RewardSource, name: str, *, what: str = "reward") -> Any:
    """The tokenizer beside the weights, or else the companion's.

    Raises:
        ValueError: there is none.
    """
    home = source.location
    if source.companion and not any((Path(str(home)) / file).is_file() for file in TOKENIZER_FILES):
        home = source.companion
    try:
        tokenizer = tokenizer_class.from_pretrained(home)
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} {name!r} has no tokenizer: {str(error).strip().splitlines()[0]}") from error
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # transformers makes an empty one up
        raise ValueError(f"{what} {name!r} has no tokenizer in {home}; save it with the model")
    return tokenizer


def fetch(source: RewardSource, file: str, name: str, *, what: str = "reward") -> Path:
    """A file beside the weights, or else the companion's, from the hub where it is not in a folder.

    Raises:
        ValueError: the hub does not give it. A file that its folder lacks is the reader's to refuse.
    """
    location = source.location
    if isinstance(location, Path) and ((location / file).is_file() or source.companion is None):
        return location / file
    home = location if file == source.weights else source.companion or location
    try:
        return Path(hf_hub_download(str(home), file))
    except (HfHubHTTPError, EntryNotFoundError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{what} {name!r}: the hub did not give {file} of {home} ({reason})") from error


def read_tensors(file: Path, name: str) -> dict[str, Tensor]:
    """The state dict of a safetensors or `torch.save` file, where it may lie under `state_dict` beside plain values.

    Raises:
        ValueError: there is none, the file is missing or damaged, or it holds code, which is not executed.
    """
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"reward {name!r}: {file} cannot be read as tensors ({reason})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"reward {name!r}: {file} holds something that is not a state dict")
    return state


def fill(model: torch.nn.Module, state: dict[str, Tensor], settings: Settings) -> Any:
    """Give a model all of its weights.

    Raises:
        ValueError: a weight is missing, unknown or of another shape.
    """
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"reward {settings.name!r}: the weights do not fit: {reason}") from error
    return model.to(device=settings.device, dtype=settings.dtype)
