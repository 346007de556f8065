"""ReNeg's target: all tokens of the encoder's output for "", and nothing else (§4.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy
from reneg.negative import NegativeEmbedding
from reneg.randomness import make_generator

JITTER = 0.1
"""Standard deviation of what sets hidden tokens apart, relative to the root mean square of the token they copy."""


class NegativeEmbeddingTarget:
    """One embedding for all prompts, initialised with the null text's encoding.

    Only the negative branch keeps a graph. The parameter is float32 at least, whatever the model's precision, and is
    cast where it is used. Families with a pooled vector learn the negative one of it as well.

    Of a masked null text the denoiser reads one token: the others would get no gradient, and are all alike, so that
    without the mask they would get the same one and stay alike for ever. There all tokens are read, and those that
    were hidden start as copies of the one, set apart by a little noise that belongs to no run.
    """

    policy = GradientPolicy(positive=False, negative=True)

    def __init__(self, model: DiffusionModel):
        # Not null_conditioning(), which may be zeros: no text's encoding.
        null = model.encode_negative_prompt([""])
        self.null = null.filled()
        """The null text with all tokens read, in the model's precision; its mask, if there is one, is that of the
        embedding."""
        self._dtype = torch.promote_types(torch.float32, model.dtype)
        embeds = self.null.prompt_embeds.to(self._dtype)
        if null.prompt_attention_mask is not None:
            embeds = _set_apart(embeds, null.prompt_attention_mask == 0)
        self.negative_prompt_embeds = self._parameter(embeds)
        pooled = self.null.pooled_prompt_embeds
        self.negative_pooled_prompt_embeds = None if pooled is None else self._parameter(pooled)

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
        return model.encode_prompt(prompts), self.negative().expand(len(prompts))

    def artifact(self, metadata: dict[str, str]) -> NegativeEmbedding:
        return NegativeEmbedding.learned(self.negative(), self.null.prompt_embeds, metadata)


def _set_apart(embeds: Float[Tensor, "1 l d"], copies: Tensor) -> Float[Tensor, "1 l d"]:
    """Noise on the tokens that are copies, [1, l], in proportion to each token's size; the same at every start."""
    noise = torch.randn(embeds.shape, generator=make_generator(0, "set apart", 0)).to(embeds)
    size = embeds.square().mean(-1, keepdim=True).sqrt()
    return torch.where(copies[..., None], embeds + JITTER * size * noise, embeds)
