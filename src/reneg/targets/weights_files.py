"""Weights files as what a model is sampled with: recognised by their content, checked, applied for a while.

Those that `reneg learn` writes, and published ones: docs/baselines.md tells which, and where they are.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from reneg.interfaces import DiffusionModel, PipelineModel
from reneg.official import DAMAGE, UNPICKLING, looks_official
from reneg.targets.weights import component_name, holding

ADAPTER = "contender"
DENOISER_FILES = tuple(
    f"{part}diffusion_pytorch_model.{suffix}"
    for suffix in ("safetensors", "bin")
    for part in ("", "unet/", "transformer/")
)
"""Where a folder holds a denoiser's weights: its own, or a whole pipeline's."""
CLIP_PARTS = ("text_model.", "embeddings.", "encoder.layers.", "final_layer_norm.")
"""How tensors begin in the own file of CLIP's text encoder."""
WHOLE_CHECKPOINT = "model.diffusion_model."
"""How tensors begin in a checkpoint that holds all parts of a Stable Diffusion in its first layout."""


@dataclass(frozen=True)
class WeightsFile:
    """Weights that take the place of a model's own, or are added to them."""

    path: Path
    kind: Literal["lora", "denoiser", "text_encoder"]
    metadata: dict[str, str]
    """What the file says of itself; a file of others may say nothing."""
    sha256: str
    """Of the file."""

    @contextmanager
    def applied(self, model: DiffusionModel) -> Iterator[None]:
        """The model has these weights within the block, and its own again after it.

        Args:
            model: that `open_weights` found them to fit.

        Raises:
            ValueError: LoRA does not fit the model, or peft is not installed.
        """
        assert isinstance(model, PipelineModel)
        if self.kind == "lora":
            try:
                model.pipe.load_lora_weights(self.path.parent, weight_name=self.path.name, adapter_name=ADAPTER)
            except (ValueError, RuntimeError, KeyError) as error:
                model.pipe.unload_lora_weights()
                hint = "" if "PEFT" not in str(error) else "; install it: pip install 'reneg[lora]'"
                raise ValueError(f"{self.path} cannot be added to {model.name}: {_first_line(error)}{hint}") from error
            try:
                yield
            finally:
                model.pipe.unload_lora_weights()
        else:
            own = parameters_by_name(model, self.kind)
            tensors = {_name(name): tensor for name, tensor in _read_tensors(self.path).items() if _counts(name)}
            with holding([own[name] for name in tensors], list(tensors.values())):
                yield


def parameters_by_name(model: PipelineModel, kind: Literal["denoiser", "text_encoder"]) -> dict[str, Tensor]:
    """The parameters that a file of a kind replaces, by their names in it."""
    if kind == "denoiser":
        return dict(model.denoiser.named_parameters())
    encoders = {component_name(model, encoder): encoder for encoder in model.encoders}
    return {_name(f"{part}.{name}"): p for part, encoder in encoders.items() for name, p in encoder.named_parameters()}


def open_weights(path: Path, model: DiffusionModel) -> WeightsFile | None:
    """A weights file for a model: one that `reneg learn` wrote, a LoRA, a denoiser's or a text encoder's own file.

    Precision does not matter. Of a `.bin`, `.pt` or `.pth` file tensors alone are read, never code.

    Args:
        path: a file, or a folder with a denoiser's file in it, such as a whole pipeline's.

    Returns:
        None for everything else, such as a negative embedding.

    Raises:
        ValueError: it holds weights of another model, or a whole checkpoint.
    """
    path = next((path / name for name in DENOISER_FILES if (path / name).is_file()), path)
    try:
        metadata, shapes = _describe(path)
    except (SafetensorError, *DAMAGE, *UNPICKLING):
        return None  # its own reader tells what is wrong with it
    if any(name.startswith(WHOLE_CHECKPOINT) for name in shapes):
        raise ValueError(
            f"{path} is a whole checkpoint in Stable Diffusion's first layout; convert it to a diffusers folder "
            "(StableDiffusionPipeline.from_single_file, save_pretrained), and give that"
        )
    shapes = {_name(name): shape for name, shape in shapes.items() if _counts(name)}
    kind = _kind_of(shapes, metadata)
    if kind is None or not isinstance(model, PipelineModel):
        return None
    if kind != "lora":
        wanted = {name: tuple(parameter.shape) for name, parameter in parameters_by_name(model, kind).items()}
        wrong = [name for name in {**wanted, **shapes} if wanted.get(name) != shapes.get(name)]
        if wrong:
            name = min(wrong)
            raise ValueError(
                f"{path} holds the weights of another {kind} than that of {model.name}: {len(wrong)} tensors differ, "
                f"{name} is {shapes.get(name)} there and {wanted.get(name)} here; use the model that it is of"
            )
    with path.open("rb") as file:
        return WeightsFile(path, kind, metadata, hashlib.file_digest(file, "sha256").hexdigest())


def _describe(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """A file's metadata, and the shapes of its tensors by name; none where it is no state dict."""
    if _is_torch(path):
        content = _load(path, "meta")
        named = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
        return {}, {str(name): tuple(tensor.shape) for name, tensor in content.items()} if named else {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {}), {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return _load(path, "cpu") if _is_torch(path) else load_file(path)


def _is_torch(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in (".pt", ".pth") or looks_official(path))


def _load(path: Path, device: str):
    return torch.load(path, map_location=device, weights_only=True)


def _name(name: str) -> str:
    """What a tensor is called here, whoever wrote it.

    torch's wrapper for several devices adds a prefix; a text encoder's own file does not name the component, and
    transformers dropped the part `text_model` from CLIP's names at some time.
    """
    name = name.removeprefix("module.")
    if name.startswith(CLIP_PARTS):
        name = f"text_encoder.{name}"
    return name.replace(".text_model.", ".", 1)


def _counts(name: str) -> bool:
    """Whether a tensor holds weights: older text encoders list the numbers of their places, too."""
    return not name.endswith(".position_ids")


def _kind_of(
    shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, str]
) -> Literal["lora", "denoiser", "text_encoder"] | None:
    """By the tensors' names: those of LoRA in any layout that diffusers reads, or of a component of a pipeline."""
    if shapes and all("lora" in name or name.endswith(".alpha") for name in shapes):
        return "lora"
    if shapes and all(name.startswith("text_encoder") for name in shapes):
        return "text_encoder"
    # A UNet or a transformer in diffusers' layout has one of these; a negative embedding has neither.
    if metadata.get("target") == "denoiser" or {"conv_in.weight", "pos_embed.proj.weight"} & shapes.keys():
        return "denoiser"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
