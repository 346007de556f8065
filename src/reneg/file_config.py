"""The settings of the commands that work on files of negative embeddings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reneg.config import ModelConfig, require


@dataclass
class VerifyConfig(ModelConfig):
    """Render one prompt with and without a negative embedding from one noise, and fail if nothing changed."""

    file: Path = field(kw_only=True)
    """A negative embedding (.safetensors)."""
    prompt: str = "a red cat"
    """What to draw."""
    output_dir: Path = Path("runs/verify")
    """Where null.png and negative.png go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.prompt.strip()), "--prompt: got an empty text; write what to draw")


@dataclass
class InspectConfig:
    """Tell what a file is, for which encoder, and how it was learned."""

    file: Path
    """A negative embedding (.safetensors, or an official .bin)."""


@dataclass
class ConvertConfig:
    """Write an official ReNeg file as safetensors, with its mask and a checksum."""

    file: Path
    """An official file (.bin)."""
    output: Path
    """The .safetensors file to write."""

    def __post_init__(self) -> None:
        self.output = Path(self.output)
        require(self.output.suffix == ".safetensors", f"output {self.output}: must end in .safetensors")


@dataclass
class MergeConfig:
    """Merge negative embeddings of one text encoder, or write one at another strength."""

    files: list[Path]
    """Two or more files; or one, with a weight."""
    output: Path
    """The .safetensors file to write."""
    weights: list[float] = field(default_factory=list)
    """One for each file; none takes the mean."""
    method: Literal["lerp", "slerp"] = "lerp"
    """lerp adds the changes from the null text, and weights may sum to anything; slerp turns from one direction to
    the other, token by token, and keeps the length."""

    def __post_init__(self) -> None:
        self.output = Path(self.output)
        require(self.output.suffix == ".safetensors", f"--output {self.output}: must end in .safetensors")
        count = len(self.files)
        require(count > 1 or bool(self.weights), "give two or more files to merge, or one and --weights 0.6")
        require(all(abs(w) <= 100 for w in self.weights), f"--weights {self.weights}: must be numbers up to 100")
        right = len(self.weights) in (0, count)
        require(right, f"--weights: got {len(self.weights)} for {count} files; give one for each file")


@dataclass
class PushConfig:
    """Write a negative embedding and a card that tells how it was made to a repository of the hub."""

    file: Path
    """A negative embedding (.safetensors, or an official .bin)."""
    repository: str
    """owner/name; made if there is none."""
    license: str
    """An identifier of the hub's, such as openrail or apache-2.0; the base model's and the reward's bind it."""
    evaluation: Path | None = None
    """A folder of `reneg evaluate` with this file among its negatives: its figures and pictures go into the card."""
    private: bool = False
    """Make the repository private."""
    commit_message: str = "Upload a negative embedding"
    """Of the commit on the hub."""
