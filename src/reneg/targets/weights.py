"""A model's own weights as what is trained: what the targets that change them share, and the file they leave."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module, Parameter

from reneg.files import write_atomically
from reneg.interfaces import PipelineModel
from reneg.negative import tensor_hash

FORMAT = "reneg-weights/1"
SAMPLED = 16
"""Entries of each tensor that tell a model's weights from another's: any further training moves them all."""


@dataclass(frozen=True)
class Weights:
    """Trained weights of a model: what a run leaves."""

    tensors: dict[str, Tensor]
    """By name; float32, on the CPU."""
    metadata: dict[str, str]
    """How they were learned."""

    @classmethod
    def of(cls, named: dict[str, Parameter], metadata: dict[str, str]) -> "Weights":
        """Copies of parameters."""
        tensors = {name: p.detach().to("cpu", torch.float32, copy=True).contiguous() for name, p in named.items()}
        return cls(tensors, metadata)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically, with a checksum of its tensors in its metadata."""
        # diffusers and transformers read no safetensors file whose "format" is not "pt".
        own = {"format": "pt", "reneg_format": FORMAT, "sha256": tensor_hash(*self.tensors.values())}
        write_atomically(Path(path), lambda file: save_file(self.tensors, file, metadata=self.metadata | own))

    def facts(self) -> dict[str, str]:
        """What they are and how they were learned, as label -> text."""
        numbers = sum(tensor.numel() for tensor in self.tensors.values())
        facts = {
            "tensors": str(len(self.tensors)),
            "numbers": f"{numbers:,}",
            "size": f"{4 * numbers / 2**20:.2f} MiB",
        }
        return facts | {k.replace("_", " "): v for k, v in sorted(self.metadata.items()) if k != "config"}


def component_name(model: PipelineModel, module: Module) -> str:
    """What a pipeline calls one of its modules, such as unet, transformer or text_encoder_2."""
    return next(name for name, part in model.pipe.components.items() if part is module)


def make_trainable(module: Module) -> None:
    """Let a frozen module's weights be trained, in float32 at least."""
    module.requires_grad_(True)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.promote_types(torch.float32, parameter.dtype))


def weights_digest(modules: Iterable[Module]) -> Float[Tensor, " n"]:
    """A digest of modules' weights as a tensor: equal only for the same weights, and far apart otherwise."""
    digest = hashlib.sha256()
    for parameter in (parameter for module in modules for parameter in module.parameters()):
        flat = parameter.detach().flatten()
        digest.update(flat[:: max(1, len(flat) // SAMPLED)].double().cpu().numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.float32)


@contextmanager
def holding(parameters: Sequence[Tensor], state: Sequence[Tensor]) -> Iterator[None]:
    """Parameters hold the values of another state within the block."""
    kept = [parameter.detach().clone() for parameter in parameters]
    copy_values(state, parameters)
    try:
        yield
    finally:
        copy_values(kept, parameters)


@torch.no_grad()
def copy_values(values: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Set parameters in place, without a graph; devices and precisions may differ."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
