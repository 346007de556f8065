"""ReNeg with a guidance scale that is learned along with the embedding (§4.2, which found it no better)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy
from reneg.negative import NegativeEmbedding
from reneg.targets.negative_embedding import NegativeEmbeddingTarget


class EmbeddingAndScaleTarget:
    """The negative embedding and gamma of Eq. 5 = guidance_scale * exp(log_factor), from log_factor 0 on.

    The paper does not say how gamma was learned. The logarithm keeps it positive, and a step of the learning rate
    that suits an embedding's entries changes it by that share of its value.
    """

    # The scale multiplies the branches' difference: its gradient needs the positive branch's value, not its graph.
    policy = GradientPolicy(positive=False, negative=True)

    def __init__(self, model: DiffusionModel):
        self.embedding = NegativeEmbeddingTarget(model)
        dtype = torch.promote_types(torch.float32, model.dtype)
        self.log_factor = torch.nn.Parameter(torch.zeros((), dtype=dtype, device=model.device))

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.embedding.parameters(), self.log_factor]

    def fingerprint(self) -> list[Tensor]:
        """The null text's encoding, which tells the text encoder."""
        return self.embedding.fingerprint()

    def guidance_scale(self, configured: float) -> Float[Tensor, ""]:
        return configured * self.log_factor.exp()

    def negative(self) -> Conditioning:
        """The embedding as the conditioning of one prompt."""
        return self.embedding.negative()

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        return self.embedding.condition(model, prompts)

    def artifact(self, metadata: dict[str, str]) -> NegativeEmbedding:
        """The scale is in the metadata, as any run's is; `target` there says that it was learned."""
        return self.embedding.artifact(metadata)
