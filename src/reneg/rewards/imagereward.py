"""ImageReward (Xu et al. 2023) from its original files: BLIP's picture encoder, BERT that looks at it, and an MLP."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
from transformers.activations import ACT2FN

from reneg.rewards.aesthetic import convert_mlp, make_head
from reneg.rewards.loading import RewardSource, Settings, fetch, fill, load_tokenizer, read_tensors
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess
from reneg.rewards.text import PromptTokenizer

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the MLP's output on the authors' data; the reward is normalised by them."""
MAX_TOKENS = 35
ADDED_TOKENS = ["[DEC]", "[ENC]"]
"""BLIP's, behind BERT's 30,522. ImageReward never puts them in itself: a prompt keeps its [CLS]."""
VISION_HEAD_WIDTH = 64
"""Of BLIP's ViT-L/16; a state dict does not tell it."""
VISION_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
"""BLIP's name -> transformers'."""
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
BLOCK_NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
TEXT_NAMES = re.compile(
    r"embeddings\.((word|position)_embeddings\.weight|LayerNorm\.(weight|bias))"
    r"|encoder\.layer\.\d+\.((cross)?attention\.(self\.(query|key|value)|output\.(dense|LayerNorm))"
    r"|intermediate\.dense|output\.(dense|LayerNorm))\.(weight|bias)"
)
"""Of the text encoder; BLIP's and transformers' are the same."""
UNUSED = {
    "blip.text_encoder.embeddings.position_ids",  # 0, 1, 2, …
    *(
        f"blip.{proj}.{part}" for proj in ("vision_proj", "text_proj") for part in ("weight", "bias")
    ),  # BLIP's own loss
}
"""Keys of the file that play no part in the reward."""


class ImageRewardModel(nn.Module):
    """Pixels and tokens -> rewards `[b]`."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, head: nn.Sequential):
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = head

    def forward(
        self,
        pixels: Float[Tensor, "b 3 s s"],
        input_ids: Int[Tensor, "b l"],
        attention_mask: Int[Tensor, "b l"],
    ) -> Float[Tensor, " b"]:
        # Not pooler_output, which is normalised twice.
        patches = self.vision(pixel_values=pixels).last_hidden_state
        text = self.text(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=patches,
            is_decoder=False,  # every token sees every other; the configuration's flag only adds the cross-attention
        )
        return (self.head(text.last_hidden_state[:, 0]).squeeze(-1) - MEAN) / STD


class ImageReward:
    """The normalised reward of a picture for a prompt: about N(0, 1) over the authors' data, mostly -2.3 to 2."""

    def __init__(self, model: ImageRewardModel, tokenizer: BertTokenizer, preprocess: ImagePreprocess, *, name: str):
        self.name = name
        self.model = model.requires_grad_(False).eval()
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self._tokenize = PromptTokenizer(tokenizer, MAX_TOKENS, name=name)

    def modules(self) -> list[nn.Module]:
        """What has weights."""
        return [self.model]

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        pixels = self.preprocess(images).to(self.model.vision.dtype)
        tokens = self._tokenize(prompts, pixels.device)
        return self.model(pixels, tokens["input_ids"], tokens["attention_mask"])


def convert_image_reward(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `ImageReward.pt` -> that of an ImageRewardModel.

    Raises:
        ValueError: a key is unknown, or the MLP is another.
    """
    converted, head = dict[str, Tensor](), dict[str, Tensor]()
    for key, tensor in state.items():
        if key.startswith("mlp."):
            head[key] = tensor
        elif key not in UNUSED:
            converted[_convert_name(key)] = tensor
    return converted | {f"head.{key}": tensor for key, tensor in convert_mlp(head, "mlp.layers.").items()}


def _convert_name(key: str) -> str:
    vision, text = key.removeprefix("blip.visual_encoder."), key.removeprefix("blip.text_encoder.")
    block = BLOCK.fullmatch(vision)
    if vision != key and vision in VISION_NAMES:
        return f"vision.{VISION_NAMES[vision]}"
    if vision != key and block and block[2] in BLOCK_NAMES:
        return f"vision.encoder.layers.{block[1]}.{BLOCK_NAMES[block[2]]}.{block[3]}"
    if text != key and TEXT_NAMES.fullmatch(text):
        return f"text.{text}"
    raise ValueError(f"{key!r} is no weight of ImageReward")


def image_reward_configs(
    state: dict[str, Tensor], med_config: dict[str, Any]
) -> tuple[BlipVisionConfig, BlipTextConfig]:
    """The configurations of both encoders.

    Args:
        state: a converted state dict; its shapes tell the sizes.
        med_config: what `med_config.json` holds: heads, activation and epsilon of the text encoder, and its sizes
            once more. Its `encoder_width` is not read: the original overwrites it with the picture encoder's width.

    Raises:
        ValueError: a weight that tells a size is missing, or the file contradicts the weights.
    """
    try:
        width, _, patch, _ = state["vision.embeddings.patch_embedding.weight"].shape
        if width % VISION_HEAD_WIDTH:
            raise ValueError(f"a picture encoder of width {width} is not ImageReward's")
        vision = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=len(state["vision.encoder.layers.0.mlp.fc1.weight"]),
            num_hidden_layers=_count(state, "vision.encoder.layers."),
            num_attention_heads=width // VISION_HEAD_WIDTH,
            image_size=round((state["vision.embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch,
            patch_size=patch,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
        vocabulary, text_width = state["text.embeddings.word_embeddings.weight"].shape
        sizes = {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": len(state["text.encoder.layer.0.intermediate.dense.weight"]),
            "num_hidden_layers": _count(state, "text.encoder.layer."),
            "max_position_embeddings": len(state["text.embeddings.position_embeddings.weight"]),
        }
    except KeyError as error:
        raise ValueError(f"ImageReward without {error} is not whole") from error
    for name, size in sizes.items():
        if med_config.get(name) != size:
            raise ValueError(f"med_config.json has {name} {med_config.get(name)}, and the weights have {size}")
    return vision, BlipTextConfig(
        **sizes,
        **_read_form(med_config, text_width),
        encoder_hidden_size=width,
        is_decoder=True,  # what makes transformers build the cross-attention
        pad_token_id=0,
        bos_token_id=0,  # these two only serve generation
        sep_token_id=0,
    )


def _count(state: dict[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)})


def _read_form(med_config: dict[str, Any], width: int) -> dict[str, Any]:
    """What the shapes do not tell."""
    heads, activation, epsilon = (
        med_config.get(name) for name in ("num_attention_heads", "hidden_act", "layer_norm_eps")
    )
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise ValueError(f"med_config.json has num_attention_heads {heads}, which do not divide {width}")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise ValueError(f"med_config.json has hidden_act {activation!r}, which transformers does not know")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ValueError(f"med_config.json has layer_norm_eps {epsilon!r}; it must be a small number above 0")
    return {"num_attention_heads": heads, "hidden_act": activation, "layer_norm_eps": epsilon}


def read_med_config(file: Path) -> dict[str, Any]:
    """The content of `med_config.json`.

    Raises:
        ValueError: it is missing or no JSON object.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is not readable ({error}); it belongs beside the weights") from error


def load_image_reward(source: RewardSource, settings: Settings) -> ImageReward:
    """ImageReward.pt, or the same tensors as safetensors, with med_config.json beside it and BERT's tokenizer.

    Raises:
        ValueError: the files hold another model, or code.
    """
    file = fetch(source, str(source.weights), settings.name)
    # Beside the weights alone: the companion is only BERT's tokenizer.
    med_config = fetch(replace(source, companion=None), "med_config.json", settings.name)
    content = read_tensors(file, settings.name)
    try:
        state = convert_image_reward(content)
        vision, text = image_reward_configs(state, read_med_config(med_config))
        head = make_head({key.removeprefix("head."): v for key, v in state.items() if key.startswith("head.")})
    except (ValueError, TypeError, IndexError) as error:  # the last two: shapes of other dimensions
        raise ValueError(f"reward {settings.name!r}: {file}: {error}") from error
    model = fill(ImageRewardModel(vision, text, head), state, settings)
    tokenizer = load_tokenizer(BertTokenizer, source, settings.name)
    tokenizer.add_tokens(ADDED_TOKENS, special_tokens=True)
    if len(tokenizer) != text.vocab_size:
        sizes = f"{len(tokenizer)} tokens with BLIP's two, and the weights read {text.vocab_size}"
        raise ValueError(f"reward {settings.name!r}: its tokenizer has {sizes}; it must be bert-base-uncased's")
    size = cast(int, vision.image_size)  # annotated as possibly a pair
    preprocess = ImagePreprocess(size, CLIP_MEAN, CLIP_STD, published="pil" if settings.published else None)
    return ImageReward(model, tokenizer, preprocess, name=settings.name)
