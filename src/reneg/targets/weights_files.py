"""Weights files as what a model is sampled with: recognised by their content, checked, applied for a while."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from reneg.interfaces import DiffusionModel, PipelineModel
from reneg.targets.weights import component_name, holding

ADAPTER = "contender"


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
            own, tensors = parameters_by_name(model, self.kind), load_file(self.path)
            with holding([own[name] for name in tensors], list(tensors.values())):
                yield


def parameters_by_name(model: PipelineModel, kind: Literal["denoiser", "text_encoder"]) -> dict[str, Tensor]:
    """The parameters that a file of a kind replaces, by their names in it."""
    if kind == "denoiser":
        return dict(model.denoiser.named_parameters())
    encoders = {component_name(model, encoder): encoder for encoder in model.encoders}
    return {f"{part}.{name}": p for part, encoder in encoders.items() for name, p in encoder.named_parameters()}


def open_weights(path: Path, model: DiffusionModel) -> WeightsFile | None:
    """A weights file for a model: one that `reneg learn` wrote, a LoRA, or the denoiser's of a diffusers folder.

    Returns:
        None for everything else, such as a negative embedding.

    Raises:
        ValueError: it holds weights of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError):
        return None  # no safetensors file: its own reader tells what is wrong with it
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
