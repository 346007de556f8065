"""The table of models, and loading one by name or folder."""

from pathlib import Path

import torch

from reneg.interfaces import DiffusionModel
from reneg.models.sd import StableDiffusion
from reneg.world import WEIGHTS

MODELS: dict[str, Path | str] = {
    "world": WEIGHTS / "generator",
    "sd1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Short name -> folder or hub id."""

SCHEDULERS = ("ddim", "ddpm")


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


def load_model(
    model: str, *, scheduler: str = "ddim", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusionModel:
    """Load a frozen model.

    Args:
        model: a row of MODELS, a diffusers folder, or a hub id `owner/name`.
        scheduler: `ddim` (deterministic, the paper's choice) or `ddpm` (Fig. 3's worse alternative).

    Raises:
        ValueError: unknown name, scheduler or device, or a folder that holds no Stable Diffusion pipeline.
    """
    check_device(device)
    if scheduler not in SCHEDULERS:
        raise ValueError(f"--scheduler {scheduler!r} is unknown; choose from {', '.join(SCHEDULERS)}")
    source = str(MODELS.get(model, model))
    if model not in MODELS and not Path(source).is_dir() and source.count("/") != 1:
        raise ValueError(
            f"--model {model!r} is unknown; choose from {', '.join(MODELS)}, a diffusers folder, "
            "or a hub id owner/name"
        )
    return StableDiffusion.from_pretrained(source, name=model, scheduler=scheduler, device=device, dtype=dtype)
