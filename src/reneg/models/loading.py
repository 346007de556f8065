"""A pipeline's components from a folder or the hub: safetensors alone, all weights or none."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError

from reneg.models.base import LatentModel

LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)


def refuse(name: str, error: Exception) -> ValueError:
    """The first line of what a library said, as the package's own error."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"--model {name!r} cannot be loaded as a diffusers pipeline: {reason}")


def read_index(source: str, *, name: str, revision: str | None) -> dict[str, Any]:
    """`model_index.json` of a folder or hub repository.

    Raises:
        ValueError: there is none.
    """
    try:
        load: Any = DiffusionPipeline.load_config  # annotated as if it never gave a plain dict
        return dict(load(source, revision=revision))
    except LOAD_ERRORS as error:
        raise refuse(name, error) from error


def load_pipeline(
    family: type[LatentModel],
    source: str,
    index: dict[str, Any],
    *,
    denoiser: Path | None = None,
    name: str,
    device: str,
    dtype: torch.dtype,
    revision: str | None,
    trust_remote_code: bool,
) -> DiffusionPipeline:
    """All components, on a device; no pickle is read, and no remote code is run unless it is trusted.

    Args:
        denoiser: folder of the `unet` and `scheduler` that take the place of the pipeline's own.

    Raises:
        ValueError: a part is missing or damaged.
    """
    options = {"revision": revision, "dtype": dtype, "use_safetensors": True, "trust_remote_code": trust_remote_code}
    try:
        present = {part: c for part, c in family.text_encoders.items() if index.get(part, [None])[0] is not None}
        encoders = {part: _load_encoder(part, encoder, source, options) for part, encoder in present.items()}
        lacking = [part for part in family.optional_encoders if part not in present]
        # diffusers takes their absence from the caller alone.
        none = {name: None for part in lacking for name in (part, part.replace("text_encoder", "tokenizer"))}
        replaced = {} if denoiser is None else _load_denoiser(denoiser, dtype)
        pipe = family.pipeline_class.from_pretrained(
            source, **encoders, **none, **replaced, **family.loading, **options
        )
        pipe = pipe.to(device)  # finds weights that were missing, too
        for part, tokenizer in pipe.components.items():
            if part.startswith("tokenizer") and tokenizer is not None:
                if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
                    raise ValueError("there is no tokenizer")  # transformers makes an empty one up
    except LOAD_ERRORS as error:
        raise refuse(name, error) from error
    return pipe


def _load_denoiser(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """A UNet, and the scheduler that knows what it predicts."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype, use_safetensors=True)
    return {"unet": unet, "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler")}


def _load_encoder(part: str, encoder: Any, source: str, options: dict[str, Any]) -> Any:
    """transformers fills missing weights with random ones and says so in its loading info alone."""
    model, info = encoder.from_pretrained(source, subfolder=part, output_loading_info=True, **options)
    if info["missing_keys"]:
        raise ValueError(f"{part} lacks {len(info['missing_keys'])} of its weights")
    return model
