"""HPSv2.1 and HPSv2.0 (Wu et al. 2023) from their original files: open_clip's ViT-H-14, read into a CLIPModel."""

import re
from typing import Any

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from reneg.rewards.clip import ClipReward
from reneg.rewards.loading import RewardSource, Settings, fetch, fill, load_tokenizer, read_tensors
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

VISION_HEAD_WIDTH, TEXT_HEAD_WIDTH = 80, 64
"""Of open_clip's ViT-H-14; a state dict does not tell them."""
NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
"""open_clip's name -> transformers'."""
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
LAYER_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def convert_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of open_clip's CLIP -> that of a CLIPModel.

    Raises:
        ValueError: a key is unknown.
    """
    converted: dict[str, Tensor] = {}
    for original, tensor in state.items():
        key = original.removeprefix("module.")  # of DistributedDataParallel
        layer = LAYER.fullmatch(key)
        if key == "attn_mask":  # the causal mask, which older open_clip saved
            continue
        if key in NAMES:
            converted[NAMES[key]] = tensor
        elif key in TRANSPOSED:
            converted[TRANSPOSED[key]] = tensor.T.contiguous()
        elif layer and (parts := _convert_layer(layer[3], tensor)):
            prefix = f"{'vision' if layer[1] else 'text'}_model.encoder.layers.{layer[2]}."
            converted |= {prefix + name: part for name, part in parts.items()}
        else:
            raise ValueError(f"{original!r} is no weight of open_clip's CLIP")
    return converted


def _convert_layer(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One weight of a layer -> its counterparts; none for an unknown name."""
    module, _, part = name.rpartition(".")
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        part = name.removeprefix("attn.in_proj_")
        return {f"self_attn.{p}_proj.{part}": t.clone() for p, t in zip("qkv", tensor.chunk(3), strict=True)}
    return {f"{LAYER_NAMES[module]}.{part}": tensor} if module in LAYER_NAMES and part in ("weight", "bias") else {}


def open_clip_config(state: dict[str, Tensor]) -> CLIPConfig:
    """The configuration of a converted state dict, from its shapes; GELU is exact in both towers.

    Raises:
        ValueError: a weight that tells it is missing.
    """
    try:
        vocabulary, text_width = state["text_model.embeddings.token_embedding.weight"].shape
        width, _, patch, _ = state["vision_model.embeddings.patch_embedding.weight"].shape
        patches = len(state["vision_model.embeddings.position_embedding.weight"]) - 1
        text: dict[str, Any] = {
            **_tower(state, "text_model", text_width, TEXT_HEAD_WIDTH),
            "vocab_size": vocabulary,
            "max_position_embeddings": len(state["text_model.embeddings.position_embedding.weight"]),
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        }
        vision: dict[str, Any] = {
            **_tower(state, "vision_model", width, VISION_HEAD_WIDTH),
            "image_size": round(patches**0.5) * patch,
            "patch_size": patch,
        }
        embed = len(state["visual_projection.weight"])
    except KeyError as error:
        raise ValueError(f"a CLIP model without {error} is not whole") from error
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=embed)


def _tower(state: dict[str, Tensor], tower: str, width: int, head_width: int) -> dict[str, Any]:
    layers = {key.split(".")[3] for key in state if key.startswith(f"{tower}.encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": len(state[f"{tower}.encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // head_width,
        "hidden_act": "gelu",
    }


def load_hps(source: RewardSource, settings: Settings) -> ClipReward:
    """The plain cosine of open_clip's ViT-H-14, about 0.2 to 0.35; the benchmark's figures are 100 times this.

    Raises:
        ValueError: the file holds another model, or code.
    """
    file = fetch(source, str(source.weights), settings.name)
    content = read_tensors(file, settings.name)
    try:
        state = convert_open_clip(content)
        config = open_clip_config(state)
    except (ValueError, TypeError) as error:  # a shape of no dimensions has no length
        raise ValueError(f"reward {settings.name!r}: {file}: {error}") from error
    model = fill(CLIPModel(config), state, settings)
    size = model.config.vision_config.image_size
    published = "hpsv2" if settings.published else None
    preprocess = ImagePreprocess(size, CLIP_MEAN, CLIP_STD, fit="pad", published=published)
    tokenizer = load_tokenizer(CLIPTokenizer, source, settings.name)
    return ClipReward(model, tokenizer, preprocess, name=settings.name, scaled=False, clean=True)
