"""Image-only rewards: a CLIP vision tower with one output, and LAION's heads on OpenAI's CLIP."""

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from reneg.rewards.loading import RewardSource, Settings, fetch, fill, load_complete, read_tensors
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

MLP_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the linear layers in the original MLP of linear layers and dropout: there is no activation."""


class AestheticReward:
    """The single projected output of a CLIPVisionModelWithProjection; the prompt plays no part."""

    def __init__(self, model: CLIPVisionModelWithProjection, preprocess: ImagePreprocess, *, name: str):
        self.name = name
        self.model = model.requires_grad_(False).eval()
        self.preprocess = preprocess

    def modules(self) -> list[nn.Module]:
        """What has weights."""
        return [self.model]

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


class LaionAestheticReward:
    """A head of linear layers on the unit image vector of CLIP ViT-L/14: about 1 to 10; the prompt plays no part.

    SAC MLP (improved-aesthetic-predictor, the usual "aesthetic score") and V1 linear (aesthetic-predictor, VBench's).
    """

    def __init__(
        self, model: CLIPVisionModelWithProjection, head: nn.Module, preprocess: ImagePreprocess, *, name: str
    ):
        self.name = name
        self.model = model.requires_grad_(False).eval()
        self.head = head.requires_grad_(False).eval()
        self.preprocess = preprocess

    def modules(self) -> list[nn.Module]:
        """What has weights."""
        return [self.model, self.head]

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        embeds = self.model(pixel_values=self.preprocess(images).to(self.model.dtype)).image_embeds
        return self.head(F.normalize(embeds, dim=-1)).squeeze(-1)


def convert_mlp(state: dict[str, Tensor], prefix: str = "layers.") -> dict[str, Tensor]:
    """The state dict of LAION's SAC MLP, or of ImageReward's, -> that of a Sequential of its linear layers.

    Raises:
        ValueError: a key is unknown or missing; the MLP with activations (reluMSE) is another network.
    """
    names = {
        f"{prefix}{old}.{part}": f"{new}.{part}" for new, old in enumerate(MLP_LAYERS) for part in ("weight", "bias")
    }
    if state.keys() != names.keys():
        keys = ", ".join(sorted(state.keys() ^ names.keys()))
        raise ValueError(f"is no MLP of five linear layers without activations; unknown or missing: {keys}")
    return {names[key]: tensor for key, tensor in state.items()}


def convert_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of either of LAION's heads -> that of a Sequential of linear layers.

    Raises:
        ValueError: as for `convert_mlp`.
    """
    if state.keys() == {"weight", "bias"}:  # V1
        return {f"0.{part}": tensor for part, tensor in state.items()}
    return convert_mlp(state)


def make_head(state: dict[str, Tensor]) -> nn.Sequential:
    """An empty Sequential of linear layers of a converted state dict's shapes."""
    shapes = [state[f"{layer}.weight"].shape for layer in range(len(state) // 2)]
    return nn.Sequential(*(nn.Linear(width, out) for out, width in shapes))


def load_laion(source: RewardSource, settings: Settings) -> LaionAestheticReward:
    """The head's original file, and CLIP from the same folder or from the hub.

    Raises:
        ValueError: one of them is not what it should be.
    """
    file = fetch(source, str(source.weights), settings.name)
    content = read_tensors(file, settings.name)
    try:
        state = convert_head(content)
        head = make_head(state)
    except ValueError as error:
        raise ValueError(f"reward {settings.name!r}: {file}: {error}") from error
    local = isinstance(source.location, Path) and (source.location / "config.json").is_file()
    model = load_complete(CLIPVisionModelWithProjection, source.location if local else source.companion, settings)
    if head[0].in_features != model.config.projection_dim:
        widths = f"{head[0].in_features} numbers, and the CLIP model gives {model.config.projection_dim}"
        raise ValueError(f"reward {settings.name!r}: {file} reads {widths}; it belongs to CLIP ViT-L/14")
    size = model.config.image_size
    preprocess = ImagePreprocess(size, CLIP_MEAN, CLIP_STD, published="pil" if settings.published else None)
    return LaionAestheticReward(model.to(settings.device), fill(head, state, settings), preprocess, name=settings.name)
