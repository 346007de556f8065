"""Two signs of reward hacking that need no scorer: garish pictures, and pictures that are all alike."""

import torch
from jaxtyping import Float
from torch import Tensor


def saturation(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
    """Mean over pixels of the largest minus the smallest channel: 0 is grey, 1 pure colour everywhere."""
    return (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2))


def diversity(images: Float[Tensor, "p s 3 H W"]) -> Float[Tensor, " p"]:
    """Mean over pairs of a prompt's s pictures of their RMS pixel distance, in [0, 1]; 0 if there is one picture."""
    pixels = images.flatten(2)
    count = pixels.shape[1]
    if count == 1:
        return torch.zeros(len(images))
    first, second = torch.triu_indices(count, count, offset=1)
    return (pixels[:, first] - pixels[:, second]).square().mean(dim=2).sqrt().mean(dim=1)
