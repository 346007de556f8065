"""Tiny pipelines of one family, called with ready-made embeddings: how every class of the table is tested."""

import inspect
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from reneg.negative import NegativeEmbedding
from reneg.pipelines import encode_null, find_row

Pool = dict[str, Any]
HIDDEN = {
    "KolorsPipeline": "kolors.pipeline_kolors",
    "KolorsPAGPipeline": "pag.pipeline_pag_kolors",
    "ConsisIDPipeline": "consisid.pipeline_consisid",
}
"""Class -> its module, where sentencepiece or OpenCV would have to be there for its text or face encoders."""


@dataclass(frozen=True)
class Family:
    """What the pipelines of one family share."""

    components: Callable[[], Pool]
    """Component name -> component; a pipeline takes those that its constructor names."""
    arguments: Callable[[int], Pool]
    """Number of prompts -> call arguments; a pipeline takes those that its call names. Item i is always the same."""
    hand_made: Callable[[NegativeEmbedding, int], Pool]
    """File, number of prompts -> the right negative arguments, written out by hand."""
    tokens: int
    width: int
    pooled: int | None = None
    masked: bool = False
    per_image: bool = True
    """Whether the right negative arguments of one prompt and two images are those of two prompts."""
    filled: Callable[[Any, int], Pool] = lambda pipe, count: {}
    """Pipeline, number of prompts -> what a further text encoder makes of "", written out by hand."""


@dataclass(frozen=True)
class Case:
    """One pipeline class on a tiny pipeline."""

    name: str
    family: Family
    components: Pool = field(default_factory=dict)
    """Over the family's."""
    arguments: Pool = field(default_factory=dict)
    """Over the family's, for three prompts. None takes an argument away."""
    one_prompt: str = ""
    """Why the class cannot take several prompts at once, if it cannot."""
    slow: bool = False
    several_images: bool = True
    """Whether two pictures of a prompt can be asked for."""
    runs_without_guidance: bool = True
    """Whether the class leaves a negative embedding alone while its guidance is off; a few mix it in, and fail."""
    attributes: Pool = field(default_factory=dict)
    """Lengths that the class keeps as attributes, made shorter."""
    area: int = 0
    """Pixels to which a class that resizes every picture does so here, instead of about a megapixel."""

    def pipeline(self) -> Any:
        pipe = build(self.name, deepcopy({**family_components(self.family.components), **self.components}))
        vars(pipe).update(self.attributes)
        return pipe

    def call(self, pipe: Any, prompts: range, negative: Pool) -> Tensor:
        """The output for some of the three prompts."""
        return self._run(pipe, negative, lambda name, value: take(value, prompts))

    def call_twice(self, pipe: Any, negative: Pool, more: Pool) -> Tensor:
        """Two pictures of the first prompt, as two prompts or, with `more`, as one with two images."""

        def twice(name: str, value: Any) -> Any:
            if name == "generator":  # two that agree: a class that encodes one picture draws once for both
                return [torch.Generator().manual_seed(100) for _ in range(2)]
            if name == "latents":
                return take(value, range(2))
            first = take(value, range(1))
            if isinstance(value, Layers):
                return first if more else torch.cat([first, first], dim=1)
            if more or not isinstance(value, (Tensor, PerPrompt)):
                return first
            return first * 2 if isinstance(first, list) else torch.cat([first, first])

        return self._run(pipe, {**negative, **more}, twice)

    def _run(self, pipe: Any, negative: Pool, choose: Callable[[str, Any], Any]) -> Tensor:
        pool = {**self.family.arguments(3), **self.arguments}
        named = inspect.signature(type(pipe).__call__).parameters
        chosen = {name: choose(name, value) for name, value in pool.items() if name in named and value is not None}
        for name in ("prompt", "image"):  # some classes name these without a default, and take None
            if name in named and named[name].default is inspect.Parameter.empty:
                chosen.setdefault(name, None)
        with torch.random.fork_rng(), self._smaller(pipe):
            torch.manual_seed(0)  # some classes encode pictures without their generator
            return first_tensor(pipe(**{**chosen, "return_dict": False, **negative}))

    def _smaller(self, pipe: Any) -> Any:
        """The class's own rule for the sides of a picture, for a smaller area."""
        if not self.area:
            return nullcontext()
        module = import_module(type(pipe).__module__)
        rule = module.calculate_dimensions
        return patch.object(module, "calculate_dimensions", lambda area, ratio: rule(self.area, ratio))


class PerPrompt(list):
    """A call argument with one item for each prompt, tensor slices included."""


class Layers:
    """A call argument whose layers come first and whose prompts come second."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def take(value: Any, prompts: range) -> Any:
    """What belongs to some prompts: a tensor's rows, a PerPrompt's items, anything else whole."""
    if isinstance(value, Layers):
        return value.tensor[:, prompts.start : prompts.stop].clone()
    if isinstance(value, PerPrompt):
        return [value[i] for i in prompts]
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == 3:
        return value[prompts.start : prompts.stop].clone()
    return value


def first_tensor(output: Any) -> Tensor:
    """The pictures, frames or sounds of a pipeline's output."""
    if isinstance(output, BaseOutput):  # some classes ignore return_dict for latents
        output = output.to_tuple()
    while isinstance(output, tuple):
        output = output[0]
    return (torch.stack(output) if isinstance(output, list) else torch.as_tensor(output)).detach().float()


@cache
def family_components(components: Callable[[], Pool]) -> Pool:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pool = components()
    for module in pool.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
            revive(module)
    return pool


def revive(module: torch.nn.Module) -> None:
    """Give zero-initialised output layers small random weights: without them a random model ignores its inputs."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=0.1, generator=generator)


def pipeline_class(name: str) -> type:
    """A class of diffusers, also where diffusers hides it for want of a package that only its encoders need."""
    found = getattr(diffusers, name)
    if found.__module__.startswith("diffusers.utils.dummy"):
        with warnings.catch_warnings():  # of the module as it is imported
            warnings.simplefilter("ignore")
            return getattr(import_module(f"diffusers.pipelines.{HIDDEN[name]}"), name)
    return found


def build(name: str, pool: Pool) -> Any:
    cls = pipeline_class(name)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    given = {}
    for parameter in parameters:
        if parameter.name in pool:
            given[parameter.name] = pool[parameter.name]
        elif parameter.default is inspect.Parameter.empty:
            given[parameter.name] = None
    pipe = cls(**given)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators() -> PerPrompt:
    return PerPrompt(torch.Generator().manual_seed(100 + i) for i in range(3))


def file(family: Family, seed: int, null: Tensor | None = None) -> NegativeEmbedding:
    """A file that fits a family; its last token is masked where the family masks.

    Args:
        null: the encoding of "", where a text encoder is loaded, here cut off or filled up to the file's length.
    """
    embeds = 5 * noise(seed, 1, family.tokens, family.width)  # far enough from zero to be seen among padded tokens
    mask = None
    if family.masked:
        mask = torch.ones(1, family.tokens)
        mask[:, -1] = 0
    pooled = None if family.pooled is None else noise(seed + 50, 1, family.pooled)
    if null is None:
        null = noise(0, 1, family.tokens, family.width)
    null = torch.nn.functional.pad(null, (0, 0, 0, family.tokens - null.shape[1]))
    return NegativeEmbedding(embeds, null, {}, pooled, mask)


def null_text(pipe: Any) -> Tensor | None:
    """The encoding of "" of a pipeline's loaded text encoder."""
    null = encode_null(pipe, find_row(pipe))
    return None if null is None else null.prompt_embeds


def repeated(tensor: Tensor | None, count: int) -> Tensor:
    assert tensor is not None
    return torch.cat([tensor] * count)
