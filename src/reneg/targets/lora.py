"""LoRA (arXiv 2106.09685): low-rank additions to the denoiser's attention, by peft."""

from typing import Any

import torch
from torch.nn import Parameter

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
    digest, prefix = weights_digest([model.denoiser]), component_name(model, model.denoiser)
    adapters = add_adapter(model.denoiser, rank=rank, seed=seed)
    named = {f"{prefix}.{name.replace(f'.{ADAPTER}.', '.')}": parameter for name, parameter in adapters.items()}
    return DenoiserTarget(model, named, digest, {"lora_rank": str(rank), "lora_alpha": str(rank)})


def add_adapter(
    denoiser: Any, *, rank: int, seed: int, name: str = ADAPTER, alpha: int | None = None
) -> dict[str, Parameter]:
    """Add adapters to a denoiser, the only ones that are active and trainable then.

    Args:
        alpha: alpha / rank scales B A; None takes the rank, and A as `lora` has it. With a number A is as peft begins
            it, uniform with variance 1 / (3 inputs) (Kaiming).

    Returns:
        Their parameters, float32 at least, by their names in the denoiser; the B among them are zero.

    Raises:
        ValueError: peft is not installed.
    """
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(seed)
        denoiser.add_adapter(_config(rank, rank if alpha is None else alpha), name)
    named = {own: parameter for own, parameter in denoiser.named_parameters() if f".{name}." in own}
    for number, (own, parameter) in enumerate(named.items()):
        parameter.data = parameter.data.to(torch.promote_types(torch.float32, parameter.dtype))
        if ".lora_A." in own and alpha is None:
            noise = torch.randn(parameter.shape, generator=make_generator(seed, "lora", number))
            parameter.data.copy_(noise / rank)
    return named


def _config(rank: int, alpha: int) -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("--target lora needs peft; install it with: pip install 'reneg[lora]'") from error
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=PROJECTIONS)
