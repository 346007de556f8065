"""Every kind of reward with random weights: as files that `load_reward` takes, and built at once."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import (
    MAX_TOKENS,
    MEAN,
    STD,
    save_tiny_reward,
    tiny_bert_tokenizer,
    tiny_clip,
    tiny_tokenizer,
    tiny_vision,
)
from transformers import CLIPImageProcessor, CLIPModel

from reneg.report import to_images
from reneg.rewards.aesthetic import make_head
from reneg.rewards.clip import ClipReward
from reneg.rewards.hps import convert_open_clip, open_clip_config
from reneg.rewards.imagereward import ImageReward, ImageRewardModel, convert_image_reward, image_reward_configs
from reneg.rewards.loading import Kind, Settings, fill
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

SIZE = 8
"""Pixels that the tiny scorers take."""


def cosine_reward() -> ClipReward:
    """In float64: the plain cosine of cleaned text."""
    preprocess = ImagePreprocess(SIZE, MEAN, STD)
    model = tiny_clip(1, SIZE).double()
    return ClipReward(model, tiny_tokenizer(), preprocess, name="tiny", scaled=False, clean=True)


def open_clip_state(*, layers: int = 2, size: int = 8, patch: int = 4, embed: int = 24) -> dict[str, torch.Tensor]:
    """Random weights in the layout of `HPS_v2.1_compressed.pt`, with that model's widths of a head."""
    generator, text, vision = torch.Generator().manual_seed(6), 128, 160
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (MAX_TOKENS, text),
        "text_projection": (text, embed),
        "token_embedding.weight": (len(tiny_tokenizer()), text),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, vision),
        "visual.proj": (vision, embed),
        "visual.conv1.weight": (vision, 3, patch, patch),
    }
    for prefix, width in (("transformer.", text), ("visual.transformer.", vision)):
        for layer in range(layers):
            block = f"{prefix}resblocks.{layer}."
            shapes |= {f"{block}{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
            shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
            shapes |= {f"{block}attn.out_proj.weight": (width, width), f"{block}attn.out_proj.bias": (width,)}
            shapes |= {f"{block}mlp.c_fc.weight": (2 * width, width), f"{block}mlp.c_fc.bias": (2 * width,)}
            shapes |= {f"{block}mlp.c_proj.weight": (width, 2 * width), f"{block}mlp.c_proj.bias": (width,)}
    norms = {"ln_final": text, "visual.ln_pre": vision, "visual.ln_post": vision}
    shapes |= {f"{norm}.{part}": (width,) for norm, width in norms.items() for part in ("weight", "bias")}
    state = {key: torch.randn(shape, generator=generator) / 10 for key, shape in shapes.items()}
    state |= {key: 1 + value for key, value in state.items() if "ln_" in key and key.endswith("weight")}
    return state | {"logit_scale": torch.tensor(4.6)}


def hps_reward(published: bool, size: int = SIZE) -> ClipReward:
    """In float64, through the loader's own functions."""
    state = convert_open_clip(open_clip_state(size=size, patch=4 if size == SIZE else size // 8))
    model = fill(CLIPModel(open_clip_config(state)), state, Settings("tiny", dtype=torch.float64))
    preprocess = ImagePreprocess(size, CLIP_MEAN, CLIP_STD, fit="pad", published="hpsv2" if published else None)
    return ClipReward(model, tiny_tokenizer(), preprocess, name="tiny", scaled=False, clean=True)


TINY_MED_CONFIG = {
    "vocab_size": len(tiny_bert_tokenizer()),
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 40,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "encoder_width": 24,  # of no meaning, as in the original
}


def image_reward_shapes(
    med_config: dict, *, width: int = 64, layers: int = 2, patches: int = 4, patch: int = 4, proj: int = 8
) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `ImageReward.pt`, of any size."""
    text, inner, positions = (
        med_config[name] for name in ("hidden_size", "intermediate_size", "max_position_embeddings")
    )
    picture, bert = "blip.visual_encoder.", "blip.text_encoder."
    shapes: dict[str, tuple[int, ...]] = {
        f"{picture}cls_token": (1, 1, width),
        f"{picture}pos_embed": (1, patches + 1, width),
        f"{picture}patch_embed.proj.weight": (width, 3, patch, patch),
        f"{picture}patch_embed.proj.bias": (width,),
        f"{bert}embeddings.position_ids": (1, positions),
        f"{bert}embeddings.word_embeddings.weight": (med_config["vocab_size"], text),
        f"{bert}embeddings.position_embeddings.weight": (positions, text),
    }
    linear = {"blip.vision_proj": (proj, width), "blip.text_proj": (proj, text)}
    norms = {f"{picture}norm": width, f"{bert}embeddings.LayerNorm": text}
    for layer in range(layers):
        block = f"{picture}blocks.{layer}."
        norms |= {f"{block}norm1": width, f"{block}norm2": width}
        linear |= {f"{block}attn.qkv": (3 * width, width), f"{block}attn.proj": (width, width)}
        linear |= {f"{block}mlp.fc1": (4 * width, width), f"{block}mlp.fc2": (width, 4 * width)}
    for layer in range(med_config["num_hidden_layers"]):
        block = f"{bert}encoder.layer.{layer}."
        for attention, seen in (("attention", text), ("crossattention", width)):
            linear |= {
                f"{block}{attention}.self.query": (text, text),
                f"{block}{attention}.output.dense": (text, text),
            }
            linear |= {f"{block}{attention}.self.{part}": (text, seen) for part in ("key", "value")}
            norms |= {f"{block}{attention}.output.LayerNorm": text}
        linear |= {f"{block}intermediate.dense": (inner, text), f"{block}output.dense": (text, inner)}
        norms |= {f"{block}output.LayerNorm": text}
    widths = [text, 1024, 128, 64, 16, 1]
    mlp = zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False)
    linear |= {f"mlp.layers.{number}": (out, into) for number, into, out in mlp}
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return shapes | {f"{name}.{part}": (size,) for name, size in norms.items() for part in ("weight", "bias")}


def image_reward_state() -> dict[str, torch.Tensor]:
    """Random weights in the layout of `ImageReward.pt`."""
    generator = torch.Generator().manual_seed(7)
    state = {
        # Large enough for the attention to choose, and for the picture to matter after BERT's normalisations.
        key: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if key.endswith("weight") else 5)
        for key, shape in image_reward_shapes(TINY_MED_CONFIG).items()
    }
    norm = re.compile(r".*(norm\d?|LayerNorm)\.weight")
    state |= {key: 1 + value / 5 for key, value in state.items() if norm.fullmatch(key)}
    positions = "blip.text_encoder.embeddings.position_ids"
    return state | {positions: torch.arange(state[positions].numel())[None]}


def image_reward(published: bool) -> ImageReward:
    """In float64, through the loader's own functions."""
    state = convert_image_reward(image_reward_state())
    head = make_head({key.removeprefix("head."): v for key, v in state.items() if key.startswith("head.")})
    model = ImageRewardModel(*image_reward_configs(state, TINY_MED_CONFIG), head)
    preprocess = ImagePreprocess(SIZE, CLIP_MEAN, CLIP_STD, published="pil" if published else None)
    filled = fill(model, state, Settings("tiny", dtype=torch.float64))
    return ImageReward(filled, tiny_bert_tokenizer(), preprocess, name="tiny")


def linear_state(width: int) -> dict[str, torch.Tensor]:
    """Random weights in the layout of LAION's linear head."""
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(1, width, generator=generator), "bias": torch.randn(1, generator=generator)}


def mlp_state(*widths: int) -> dict[str, torch.Tensor]:
    """Random weights in the layout of LAION's MLP."""
    generator, state = torch.Generator().manual_seed(0), {}
    for layer, (width, out) in zip((0, 2, 4, 6, 7), zip(widths, [*widths[1:], 1], strict=True), strict=True):
        state[f"layers.{layer}.weight"] = torch.randn(out, width, generator=generator)
        state[f"layers.{layer}.bias"] = torch.randn(out, generator=generator)
    return state


def save_vision(folder: Path) -> None:
    """A CLIP vision tower with one output."""
    tiny_vision().save_pretrained(folder)
    CLIPImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)


def save_laion(folder: Path, file: str) -> None:
    """A CLIP vision tower, and the head that the file's name tells."""
    tiny_vision(12).save_pretrained(folder)
    torch.save(linear_state(12) if file.startswith("sa_0_4") else mlp_state(12, 10, 8, 6, 4), folder / file)


def save_hps(folder: Path, file: str, state: dict[str, torch.Tensor] | None = None, **more: object) -> Path:
    """An original file of HPSv2 with a tokenizer beside it.

    Args:
        state: random if not given.
        more: what lies beside the state dict in the file.
    """
    folder.mkdir(exist_ok=True)
    tiny_tokenizer().save_pretrained(folder)
    torch.save({"state_dict": open_clip_state() if state is None else state} | more, folder / file)
    return folder / file


def save_image_reward(folder: Path, file: str, state: dict[str, Any] | None = None, **med_config: Any) -> Path:
    """ImageReward's files.

    Args:
        state: random if not given.
        med_config: what med_config.json has otherwise.
    """
    folder.mkdir(exist_ok=True)
    tiny_bert_tokenizer(blip=False).save_pretrained(folder)
    (folder / "med_config.json").write_text(json.dumps(TINY_MED_CONFIG | med_config))
    state = image_reward_state() if state is None else state
    torch.save(state, folder / file) if file.endswith(".pt") else save_file(state, folder / file)
    return folder / file


SAVE: dict[Kind, Callable[[Path, str], object]] = {
    "clip": lambda folder, _: save_tiny_reward(folder, size=SIZE),
    "cosine": lambda folder, _: save_tiny_reward(folder, size=SIZE),
    "vision": lambda folder, _: save_vision(folder),
    "laion": save_laion,
    "hps": save_hps,
    "imagereward": save_image_reward,
}
"""Kind of reward -> writes random weights in its layout to a folder, under the name of its file if it has one."""


def pictures(count: int, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def photographs(shared_data: Path) -> torch.Tensor:
    """Five real pictures of 512x512."""
    paths = [shared_data / "THUDM+ImageReward" / f"{i}.webp" for i in (1, 2, 3, 4)]
    paths.append(shared_data / "tgxs002+HPSv2" / "demo_image.jpg")
    return to_images(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]))
