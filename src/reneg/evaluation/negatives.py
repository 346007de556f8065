"""The negatives of a comparison: one for all prompts, or one for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from reneg.interfaces import Conditioning, DiffusionModel
from reneg.negative import NegativeEmbedding, tensor_hash
from reneg.negatives import file_conditioning


@runtime_checkable  # so that the tests can check types at run time
class Negative(Protocol):
    """What feeds the negative branch."""

    def of(self, model: DiffusionModel, prompts: Sequence[str]) -> Conditioning:
        """The negative of some prompts, by the model's weights in force: of as many prompts, or of one for all."""
        ...

    def content(self) -> object:
        """What it is, as JSON has it: equal only for equal negatives."""
        ...


@dataclass(frozen=True)
class OneForAll:
    """The same negative for all prompts."""

    conditioning: Conditioning
    """Of one prompt."""

    def of(self, model: DiffusionModel, prompts: Sequence[str]) -> Conditioning:
        return self.conditioning

    def content(self) -> str:
        return tensor_hash(*self.conditioning.tensors())


@dataclass(frozen=True)
class PromptTexts:
    """A negative prompt for each prompt."""

    texts: dict[str, str]
    """By prompt, in the order of the prompts."""

    def of(self, model: DiffusionModel, prompts: Sequence[str]) -> Conditioning:
        return model.encode_negative_prompt([self.texts[prompt] for prompt in prompts])

    def content(self) -> dict[str, list[str]]:
        return {"texts": list(self.texts.values())}


@dataclass(frozen=True)
class PromptEmbeddings:
    """An embedding for each prompt, read when it is needed: thousands need not fit in memory."""

    files: dict[str, Path]
    """By prompt, in the order of the prompts."""
    hashes: dict[str, str]
    """Of each prompt's tensors."""
    num_bytes: int
    """Of all files together."""
    scales: frozenset[float]
    """The guidance scales that were learned along with them; most have none."""

    @classmethod
    def open(cls, files: dict[str, Path], model: DiffusionModel, *, source: Path) -> "PromptEmbeddings":
        """Check every file, one after the other.

        Args:
            source: that names the files, for errors.

        Raises:
            ValueError: one cannot be read or belongs to another text encoder.
        """
        hashes, scales = {}, set[float]()
        for prompt, file in files.items():
            try:
                embedding = NegativeEmbedding.load(file)
                hashes[prompt] = tensor_hash(*file_conditioning(embedding, model).tensors())
                scales |= learned_scales(embedding)
            except (ValueError, OSError) as error:
                raise ValueError(f"--negatives {source}: the embedding of {prompt!r}: {error}") from error
        return cls(files, hashes, sum(file.stat().st_size for file in files.values()), frozenset(scales))

    def of(self, model: DiffusionModel, prompts: Sequence[str]) -> Conditioning:
        files = [self.files[prompt] for prompt in prompts]
        return Conditioning.concatenate(
            *(NegativeEmbedding.load(file).conditioning().to(model.device) for file in files)
        )

    def content(self) -> dict[str, list[str]]:
        return {"embeddings": list(self.hashes.values())}


def learned_scales(embedding: NegativeEmbedding) -> frozenset[float]:
    """The guidance scale that was learned along with an embedding (`--target embedding_and_scale`), or nothing.

    Raises:
        ValueError: the metadata have none that can be used.
    """
    if embedding.metadata.get("target") != "embedding_and_scale":
        return frozenset()
    told = embedding.metadata.get("guidance_scale", "")
    try:
        scale = float(told)
    except ValueError:
        scale = math.nan
    if not 0 < scale < 1000:
        raise ValueError(f"the metadata's guidance_scale, which was learned, is {told!r}, not between 0 and 1000")
    return frozenset({scale})
