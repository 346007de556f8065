"""What can be trained: a table of targets, all of which go through the same loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reneg.config import RunConfig
from reneg.interfaces import DiffusionModel, Target
from reneg.targets.denoiser import all_weights
from reneg.targets.embedding_and_scale import EmbeddingAndScaleTarget
from reneg.targets.lora import lora
from reneg.targets.negative_embedding import NegativeEmbeddingTarget
from reneg.targets.text_encoder import TextEncoderTarget

__all__ = ["TARGETS", "NegativeEmbeddingTarget", "TargetRow", "make_target"]


@dataclass(frozen=True)
class TargetRow:
    """One value of `--target`."""

    # Any: a DiffusionModel is enough for an embedding, the others need a PipelineModel.
    make: Callable[[Any, RunConfig], Target]
    file_name: str
    """Of the result in the run folder."""


TARGETS: dict[str, TargetRow] = {
    "negative_embedding": TargetRow(lambda model, _: NegativeEmbeddingTarget(model), "negative_embedding.safetensors"),
    "embedding_and_scale": TargetRow(
        lambda model, _: EmbeddingAndScaleTarget(model), "negative_embedding.safetensors"
    ),
    "lora": TargetRow(
        lambda model, config: lora(model, rank=config.lora_rank, seed=config.seed), "pytorch_lora_weights.safetensors"
    ),
    "denoiser": TargetRow(lambda model, _: all_weights(model), "denoiser.safetensors"),
    "text_encoder": TargetRow(lambda model, _: TextEncoderTarget(model), "text_encoder.safetensors"),
}


def make_target(model: DiffusionModel, config: RunConfig) -> Target:
    """The target that `--target` names, on a model."""
    return TARGETS[config.target].make(model, config)
