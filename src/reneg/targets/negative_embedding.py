"""ReNeg's target: all tokens of the encoder's output for "", and nothing else (§4.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy
from reneg.negative import NegativeEmbedding
from reneg.targets.encoded_prompts import EncodedPrompts


class NegativeEmbeddingTarget:
    """One embedding for all prompts, initialised with the null text's encoding.

    Only the negative branch keeps a graph. The parameter is float32 at least, whatever the model's precision, and is
    cast where it is used. Prompts are encoded once and kept in the model's precision. Families with a pooled vector
    learn the negative one of it as well.
    """

    policy = GradientPolicy(positive=False, negative=True)

    def __init__(self, model: DiffusionModel):
        self.null = model.encode_negative_prompt(
            [""]
        )  # not null_conditioning(), which may be zeros: no text's encoding
        """Where learning starts, in the model's precision; its mask, if there is one, stays as it is."""
        self._dtype = torch.promote_types(torch.float32, model.dtype)
        self.negative_prompt_embeds = self._parameter(self.null.prompt_embeds)
        pooled = self.null.pooled_prompt_embeds
        self.negative_pooled_prompt_embeds = None if pooled is None else self._parameter(pooled)
        self._encoded = EncodedPrompts()

    def _parameter(self, tensor: Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(tensor.to(self._dtype, copy=True))

    def parameters(self) -> list[torch.nn.Parameter]:
        pooled = self.negative_pooled_prompt_embeds
        return [self.negative_prompt_embeds, *([] if pooled is None else [pooled])]

    def fingerprint(self) -> list[Tensor]:
        """The null text's encoding, which tells the text encoder."""
        pooled = self.null.pooled_prompt_embeds
        return [self.null.prompt_embeds, *([] if pooled is None else [pooled])]

    def guidance_scale(self, configured: float) -> float:
        return configured

    def negative(self) -> Conditioning:
        """The embedding as the conditioning of one prompt."""
        return Conditioning(
            self.negative_prompt_embeds, self.negative_pooled_prompt_embeds, self.null.prompt_attention_mask
        )

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        return self._encoded(model, prompts), self.negative().expand(len(prompts))

    def artifact(self, metadata: dict[str, str]) -> NegativeEmbedding:
        return NegativeEmbedding.learned(self.negative(), self.null.prompt_embeds, metadata)
