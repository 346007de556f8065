"""Every kind of reward on a tiny model with random weights, as `load_reward`'s loaders build it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tiny import MAX_TOKENS, MEAN, STD, tiny_clip, tiny_tokenizer, tiny_vision
from transformers import CLIPModel

from reneg.interfaces import Reward
from reneg.rewards.aesthetic import AestheticReward, LaionAestheticReward
from reneg.rewards.clip import ClipReward
from reneg.rewards.hps import convert_open_clip, open_clip_config
from reneg.rewards.loading import Settings, fill
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

SIZE = 8
"""Pixels that the tiny scorers take."""


@dataclass(frozen=True)
class Scorer:
    """One kind of reward."""

    build: Callable[[bool], Reward]
    """Whether by the published path -> the reward in float64."""
    reads_prompts: bool = True


def _clip(*, scaled: bool) -> Callable[[bool], Reward]:
    def build(published: bool) -> Reward:
        preprocess = ImagePreprocess(SIZE, MEAN, STD, published="pil" if published else None)
        model = tiny_clip(1, SIZE).double()
        return ClipReward(model, tiny_tokenizer(), preprocess, name="tiny", scaled=scaled, clean=not scaled)

    return build


def _vision(published: bool) -> Reward:
    preprocess = ImagePreprocess(SIZE, MEAN, STD, published="pil" if published else None)
    return AestheticReward(tiny_vision().double(), preprocess, name="tiny")


def _laion(*widths: int) -> Callable[[bool], Reward]:
    def build(published: bool) -> Reward:
        preprocess = ImagePreprocess(SIZE, MEAN, STD, published="pil" if published else None)
        pairs = zip(widths, [*widths[1:], 1], strict=True)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            head = torch.nn.Sequential(*(torch.nn.Linear(width, out) for width, out in pairs)).double()
        return LaionAestheticReward(tiny_vision(12).double(), head, preprocess, name="tiny")

    return build


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


SCORERS = {
    "HPSv2.1, HPSv2.0": Scorer(hps_reward),
    "PickScore (and any CLIPModel folder)": Scorer(_clip(scaled=True)),
    "CLIPScore (cosine)": Scorer(_clip(scaled=False)),
    "LAION aesthetic (SAC MLP)": Scorer(_laion(12, 10, 8, 6, 4), reads_prompts=False),
    "LAION aesthetic (V1 linear)": Scorer(_laion(12), reads_prompts=False),
    "world/aesthetic": Scorer(_vision, reads_prompts=False),
}


def pictures(count: int, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
