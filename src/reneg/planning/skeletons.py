"""Components built from their configurations: under FakeTensorMode they have shapes and no numbers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from reneg.config import CONFIGS
from reneg.world import DENOISERS, WEIGHTS

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
LIBRARIES: dict[str, Any] = {
    "UNet2DConditionModel": diffusers,
    "SD3Transformer2DModel": diffusers,
    "PixArtTransformer2DModel": diffusers,
    "SanaTransformer2DModel": diffusers,
    "AutoencoderKL": diffusers,
    "AutoencoderDC": diffusers,
    **dict.fromkeys((*CLIP, "T5EncoderModel", "Gemma2Model"), transformers),
    **dict.fromkeys(("CLIPModel", "CLIPVisionModelWithProjection"), transformers),
}
"""Class of a component -> its library."""
MODELS = {
    name: CONFIGS / "plan" / f"{name}.json"
    for name in ("sd1.5", "sdxl", "sd3.5-medium", "pixart-alpha", "pixart-sigma", "sana")
}
"""Short name -> the public configurations of its components in one file: class_name and, by component, config.json."""
TOWERS = {
    "hpsv2.1": "clip-h",
    "hpsv2.0": "clip-h",
    "pickscore": "clip-h",
    "clipscore": "clip-l",
    "aesthetic": "clip-l",
    "aesthetic-v1": "clip-l",
}
"""Reward -> the CLIP model that it is. The aesthetic heads use its image tower alone, so theirs is an upper bound."""


@dataclass(frozen=True)
class Family:
    """How a pipeline class calls its denoiser."""

    denoiser: str
    """Component."""
    inputs: Callable[[Any, int, int], dict[str, Any]]
    """(denoiser, batch, tokens) -> its arguments beside the latents, random but for their shapes."""
    t5_tokens: int = 0
    """Tokens of T5 or Gemma that the pipeline asks for, after those of CLIP."""
    vae_checkpoints: bool = True
    """Its VAE can compute activations again."""


def _unet_inputs(denoiser: Any, batch: int, tokens: int) -> dict[str, Any]:
    config, dtype, added = denoiser.config, denoiser.dtype, None
    if config.addition_embed_type == "text_time":
        sizes = 6
        pooled = config.projection_class_embeddings_input_dim - sizes * config.addition_time_embed_dim
        added = {"text_embeds": torch.zeros(batch, pooled).to(dtype), "time_ids": torch.zeros(batch, sizes).to(dtype)}
    embeds = torch.zeros(batch, tokens, config.cross_attention_dim)
    return {"encoder_hidden_states": embeds, "timestep": torch.tensor(1), "added_cond_kwargs": added}


def _sd3_inputs(denoiser: Any, batch: int, tokens: int) -> dict[str, Any]:
    config = denoiser.config
    return {
        "encoder_hidden_states": torch.zeros(batch, tokens, config.joint_attention_dim),
        "pooled_projections": torch.zeros(batch, config.pooled_projection_dim).to(denoiser.dtype),
        "timestep": torch.ones(batch),
    }


def _pixart_inputs(denoiser: Any, batch: int, tokens: int) -> dict[str, Any]:
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if denoiser.use_additional_conditions:
        added = {"resolution": torch.zeros(batch, 2), "aspect_ratio": torch.zeros(batch, 1)}
    return {
        "encoder_hidden_states": torch.zeros(batch, tokens, denoiser.config.caption_channels),
        "encoder_attention_mask": torch.ones(batch, tokens),
        "timestep": torch.ones(batch),
        "added_cond_kwargs": {name: v if v is None else v.to(denoiser.dtype) for name, v in added.items()},
    }


def _sana_inputs(denoiser: Any, batch: int, tokens: int) -> dict[str, Any]:
    return {
        "encoder_hidden_states": torch.zeros(batch, tokens, denoiser.config.caption_channels),
        "encoder_attention_mask": torch.ones(batch, tokens),
        "timestep": torch.ones(batch),
    }


FAMILIES = {
    "StableDiffusionPipeline": Family("unet", _unet_inputs),
    "StableDiffusionXLPipeline": Family("unet", _unet_inputs),
    "StableDiffusion3Pipeline": Family("transformer", _sd3_inputs, t5_tokens=256),
    "PixArtAlphaPipeline": Family("transformer", _pixart_inputs, t5_tokens=120),
    "PixArtSigmaPipeline": Family("transformer", _pixart_inputs, t5_tokens=300),
    "SanaPipeline": Family("transformer", _sana_inputs, t5_tokens=300, vae_checkpoints=False),
}
"""Pipeline class -> how it calls its denoiser. Encoder-side lengths are the pipelines' own defaults."""


@dataclass(frozen=True)
class Skeleton:
    """A pipeline without its weights."""

    family: Family
    denoiser: Any
    vae: Any
    encoders: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Length of the text encoding that the denoiser reads."""
        clip = [e.config.max_position_embeddings for e in self.encoders.values() if type(e).__name__ in CLIP]
        return (clip[0] if clip else 0) + self.family.t5_tokens

    @property
    def vae_scale(self) -> int:
        """Pixels of one latent's side."""
        config = self.vae.config
        levels = config.get("block_out_channels") or config.encoder_block_out_channels  # the latter AutoencoderDC's
        return 2 ** (len(levels) - 1)

    def latents(self, batch: int, resolution: int) -> Tensor:
        side = resolution // self.vae_scale
        return torch.zeros(batch, self.denoiser.config.in_channels, side, side).to(self.denoiser.dtype)


def read_model(model: str) -> dict[str, Any]:
    """Pipeline class (`_class_name`) and the configurations of the components of a short name or diffusers folder.

    Raises:
        ValueError: it is neither, or of a class that cannot be planned.
    """
    folder = WEIGHTS / "generator" if model in DENOISERS else Path(model)
    configs: dict[str, Any]
    if model in MODELS:
        configs = _read_json(MODELS[model], model)
    elif folder.is_dir():
        index = _read_json(folder / "model_index.json", model)
        names = {part: entry[1] for part, entry in index.items() if isinstance(entry, list) and entry[1] in LIBRARIES}
        configs = {part: _read_json(folder / part / "config.json", model) for part in names}
        configs = {part: config | {"_class_name": names[part]} for part, config in configs.items()}
        configs["_class_name"] = index.get("_class_name")
        if denoiser := DENOISERS.get(model):
            configs["unet"] = _read_json(denoiser / "unet" / "config.json", model)
    else:
        choices = ", ".join([*DENOISERS, *MODELS])
        raise ValueError(f"--model {model!r} cannot be planned; choose from {choices}, or a diffusers folder")
    name = configs["_class_name"]
    if name not in FAMILIES:
        raise ValueError(f"--model {model!r} is a {name}, which cannot be planned; choose from {', '.join(FAMILIES)}")
    for part in (FAMILIES[name].denoiser, "vae"):
        if part not in configs:
            raise ValueError(f"--model {model!r}: its {part} is missing or of a class that cannot be planned")
    return configs


def read_reward(reward: str, flag: str) -> dict[str, Any]:
    """Configuration of the transformers model behind a reward: a name, or the folder of a CLIPModel.

    Raises:
        ValueError: it is neither.
    """
    folder = WEIGHTS / reward.removeprefix("world/") if reward.startswith("world/") else Path(reward)
    if reward in TOWERS:
        config = _read_json(CONFIGS / "plan" / f"{TOWERS[reward]}.json", reward)
    elif folder.is_dir():
        config = _read_json(folder / "config.json", reward)
    else:
        raise ValueError(
            f"{flag} {reward!r} cannot be planned; choose from {', '.join(TOWERS)}, or a CLIPModel's folder"
        )
    names = config.get("architectures") or ["nothing"]
    if names[0] not in ("CLIPModel", "CLIPVisionModelWithProjection"):
        raise ValueError(f"{flag} {reward!r} is a {names[0]}, which cannot be planned; give a CLIPModel")
    return config


def build(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """One frozen component; call it under FakeTensorMode, or it allocates its weights.

    Raises:
        ValueError: its class cannot be planned.
    """
    name = config.get("_class_name") or config["architectures"][0]
    if LIBRARIES[name] is diffusers:
        module = getattr(diffusers, name).from_config({k: v for k, v in config.items() if not k.startswith("_")})
    else:
        model_class = getattr(transformers, name)
        module = model_class(model_class.config_class.from_dict(config))
    _cast(module, dtype)
    return module.eval()


def _cast(module: Any, dtype: torch.dtype) -> None:
    """`module.to(dtype)`, which swaps tensors in place and cannot do so with fake ones; tied weights stay tied."""
    cast: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            new = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
            part.register_parameter(name, cast.setdefault(id(weight), new))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(dtype) if buffer.is_floating_point() else buffer)


def build_pipeline(configs: dict[str, Any], dtype: torch.dtype) -> Skeleton:
    """All components in the precisions that learning gives them (`LatentModel`)."""
    family = FAMILIES[configs["_class_name"]]
    return Skeleton(
        family,
        denoiser=build(configs[family.denoiser], dtype),
        vae=build(configs["vae"], torch.float32 if dtype == torch.float16 else dtype),
        encoders={part: build(config, dtype) for part, config in configs.items() if part.startswith("text_encoder")},
    )


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{name!r} cannot be planned: {path} holds no configuration ({error})") from error
