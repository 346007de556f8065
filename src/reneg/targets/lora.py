"""LoRA (arXiv 2106.09685): low-rank additions to the denoiser's attention, by peft."""

from typing import Any

import torch

from reneg.interfaces import PipelineModel
from reneg.randomness import make_generator
from reneg.targets.denoiser import DenoiserTarget
from reneg.targets.weights import component_name, weights_digest

ADAPTER = "reneg"
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
"""What is adapted: all projections of every attention, those of the text stream of SD3's blocks included. These are
what diffusers' own training scripts adapt."""


def lora(model: PipelineModel, *, rank: int, seed: int) -> DenoiserTarget:
    """Adapters W + B A in every attention projection of the denoiser: alpha = rank, so that nothing scales B A.

    They begin without an effect, as in diffusers' training scripts: B is zero and A is normal with standard deviation
    1 / rank. A is drawn from `seed`, and is the same on every device. Named as diffusers' `load_lora_weights` reads
    them.

    Raises:
        ValueError: peft is not installed.
    """
    digest, denoiser = weights_digest([model.denoiser]), model.denoiser
    with torch.random.fork_rng():  # peft draws from the global generator
        denoiser.add_adapter(_config(rank), ADAPTER)
    prefix, named = component_name(model, denoiser), {}
    for number, (name, parameter) in enumerate((n, p) for n, p in denoiser.named_parameters() if p.requires_grad):
        parameter.data = torch.zeros_like(parameter, dtype=torch.promote_types(torch.float32, parameter.dtype))
        if ".lora_A." in name:
            noise = torch.randn(parameter.shape, generator=make_generator(seed, "lora", number))
            parameter.data.copy_(noise / rank)
        named[f"{prefix}.{name.replace(f'.{ADAPTER}.', '.')}"] = parameter
    return DenoiserTarget(model, named, digest, {"lora_rank": str(rank), "lora_alpha": str(rank)})


def _config(rank: int) -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("--target lora needs peft; install it with: pip install 'reneg[lora]'") from error
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS)
