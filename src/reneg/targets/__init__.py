"""What can be trained."""

from reneg.targets.negative_embedding import NegativeEmbeddingTarget

__all__ = ["NegativeEmbeddingTarget"]
