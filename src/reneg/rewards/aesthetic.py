"""Image-only rewards: a CLIP vision tower with one output."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from reneg.rewards.loading import RewardSource, Settings, fetch, load_complete
from reneg.rewards.preprocess import ImagePreprocess


class AestheticReward:
    """The single projected output of a CLIPVisionModelWithProjection; the prompt plays no part."""

    def __init__(self, model: CLIPVisionModelWithProjection, preprocess: ImagePreprocess, *, name: str):
        self.name = name
        self.model = model.requires_grad_(False).eval()
        self.preprocess = preprocess

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return self.model(pixel_values=self.preprocess(images).to(self.model.dtype)).image_embeds.squeeze(-1)


def load_vision(source: RewardSource, settings: Settings) -> AestheticReward:
    """`save_pretrained` weights with their preprocessor_config.json.

    Raises:
        ValueError: the source holds no such model.
    """
    model = load_complete(CLIPVisionModelWithProjection, source.location, settings)
    home = fetch(source, "preprocessor_config.json", settings.name)
    preprocess = ImagePreprocess.from_pretrained(home, model.config.image_size, published=settings.published)
    return AestheticReward(model.to(settings.device), preprocess, name=settings.name)
