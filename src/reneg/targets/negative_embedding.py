"""ReNeg's target: all tokens of the encoder's output for "", and nothing else (§4.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy


class NegativeEmbeddingTarget:
    """One embedding for all prompts, initialised with the null text's encoding.

    Only the negative branch keeps a graph. The parameter is float32 at least, whatever the model's precision, and is
    cast where it is used. Prompts are encoded once and kept in the model's precision.
    """

    policy = GradientPolicy(positive=False, negative=True)

    def __init__(self, model: DiffusionModel):
        self.null_prompt_embeds: Float[Tensor, "1 l d"] = model.encode_prompt([""]).prompt_embeds
        dtype = torch.promote_types(torch.float32, model.dtype)
        self.negative_prompt_embeds = torch.nn.Parameter(self.null_prompt_embeds.to(dtype, copy=True))
        self._encoded: dict[str, Float[Tensor, "1 l d"]] = {}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.negative_prompt_embeds]

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        for prompt in prompts:
            if prompt not in self._encoded:
                # One at a time: in a batch the last bits would depend on which prompts a restart has left to encode.
                self._encoded[prompt] = model.encode_prompt([prompt]).prompt_embeds
        positive = Conditioning(torch.cat([self._encoded[prompt] for prompt in prompts]))
        return positive, Conditioning(self.negative_prompt_embeds).expand(len(prompts))
