"""A negative conditioning -> the keyword arguments of a diffusers pipeline's call."""

import inspect
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Conditioning
from reneg.pipelines.refusals import REFUSED
from reneg.pipelines.table import PIPELINES, PipelineRow

DENOISERS = ("transformer", "unet", "prior_prior", "prior", "decoder")
"""Names of the component that reads the embedding, the first that a pipeline has."""


def find_row(pipe: Any) -> PipelineRow:
    """The row of a pipeline's class, or of the nearest class that it derives from.

    Raises:
        ValueError: the class takes no negative embedding, with the reason, or is not known.
    """
    name = type(pipe).__name__
    for ancestor in (cls.__name__ for cls in type(pipe).__mro__):
        if ancestor in PIPELINES:
            return PIPELINES[ancestor]
        if ancestor in REFUSED:
            raise ValueError(f"{name} takes no negative embedding: {REFUSED[ancestor]}")
    if any(argument.startswith("negative") for argument in _call_arguments(pipe)):
        raise ValueError(f"{name} is not in reneg's table of pipelines (docs/pipelines.md); use `expand` by hand")
    raise ValueError(
        f"{name} takes no negative embedding: its __call__ has no negative argument; use another pipeline"
    )


@torch.no_grad()
def encode_null(pipe: Any, row: PipelineRow) -> Conditioning | None:
    """The pipeline's own encoding of "", filled, if its text encoder is loaded; None if it cannot be asked."""
    returned = None if row.reads_picture else _encode(pipe, {})
    if returned is None:
        return None
    embeds = returned[0][0] if isinstance(returned[0], list) else returned[0]
    if not isinstance(embeds, Tensor):
        return None
    embeds = embeds[None] if embeds.ndim == 2 else embeds
    embeds = embeds.flatten(2)  # layers apart, if the class has them so
    pooled = None
    if row.pooled is not None:
        pooled = next(
            (t for t in returned[1:] if isinstance(t, Tensor) and t.ndim == row.pooled_dims and t.is_floating_point()),
            None,
        )
    mask = None
    if row.mask is not None:
        mask = next((t for t in returned[1:] if _is_mask(t, embeds)), None)
    return Conditioning(embeds, None if pooled is None else pooled.reshape(1, -1), mask).filled()


def _is_mask(value: Any, embeds: Tensor) -> bool:
    """Whether what `encode_prompt` returned is the mask of some embeddings."""
    return isinstance(value, Tensor) and value.shape == embeds.shape[:2] and bool(((value == 0) | (value == 1)).all())


def pipeline_arguments(
    pipe: Any,
    row: PipelineRow,
    negative: Conditioning,
    null: Conditioning | None,
    *,
    num_prompts: int,
    num_images_per_prompt: int,
) -> dict[str, Any]:
    """The negative arguments of a pipeline's call.

    Args:
        negative: of one prompt.
        null: the pipeline's own encoding of "" (`encode_null`), which fills in what the file does not hold.

    Raises:
        ValueError: counts below 1, another number of tokens than the class reads, or something that it needs is
            neither in the file nor can be encoded.
    """
    for flag, count in (("num_prompts", num_prompts), ("num_images_per_prompt", num_images_per_prompt)):
        if count < 1:
            raise ValueError(f"{flag} is {count}; it must be at least 1")
    if row.one_prompt and num_prompts > 1:
        raise ValueError(
            f"num_prompts is {num_prompts}; {type(pipe).__name__} takes the negative embedding of one prompt; call it "
            "once for each prompt"
        )
    embeds, mask = negative.prompt_embeds, negative.prompt_attention_mask
    if mask is None:  # all tokens were read while it was learned
        mask = torch.ones(embeds.shape[:2])
    embeds, mask, extra = _fit_length(pipe, row, embeds, mask, null)
    if row.layers:
        embeds = embeds.unflatten(2, (pipe.transformer.config.num_text_layers, -1))
    named: dict[str, tuple[Tensor, int]] = {row.embeds: (embeds, 0)}
    if row.mask is not None:
        named[row.mask] = (mask.to({"int": torch.long, "bool": torch.bool, "model": torch.float}[row.mask_dtype]), 0)
    if row.pooled is not None:
        pooled = _pooled(pipe, row, negative, null)
        named[row.pooled] = (pooled.reshape(1, *[1] * (row.pooled_dims - 2), -1), 0)
    named |= _other_encoder(pipe, row)
    device, dtype = pipe._execution_device, _dtype(pipe)
    # A text beside an embedding is refused by the classes, also the "" that some of them have as the default.
    texts = [p for name, p in _call_arguments(pipe).items() if name.startswith("negative_prompt") and p.default == ""]
    kwargs: dict[str, Any] = {text.name: None for text in texts} | extra
    for name, (tensor, batch_dim) in named.items():
        every_image = row.per_image != (name in row.per_image_exceptions)
        rows = num_prompts * (num_images_per_prompt if every_image else 1)
        tensor = tensor.to(device, dtype if tensor.is_floating_point() else None)
        # A copy for each row: some classes write in place or reshape, which an expanded view does not survive.
        kwargs[name] = tensor.repeat_interleave(rows, dim=batch_dim)
    if row.as_list:
        kwargs[row.embeds] = [[tensor] if row.parts else tensor for tensor in kwargs[row.embeds]]
    return kwargs


def warn_without_guidance(pipe: Any, row: PipelineRow, guidance_scale: float | None) -> None:
    """Warn when the class's own guidance is off, so that no negative embedding has any effect.

    Args:
        guidance_scale: what the pipeline will be called with; None for the class's default.
    """
    name = type(pipe).__name__
    if row.scale is None:
        where, guider = "its guider's guidance_scale", pipe.components.get("guider")
        scale = 0.0 if guider is None else guider.guidance_scale if guidance_scale is None else guidance_scale
    else:
        where, default = row.scale, _call_arguments(pipe)[row.scale].default
        scale = default if guidance_scale is None else guidance_scale
    reason = None
    if row.off is not None and (scale is None or scale <= row.off):
        reason = f"{where} is {scale}; give more than {row.off:g}"
    elif pipe.config.get("is_distilled"):
        reason = "this checkpoint is distilled to run without it"
    elif hasattr(pipe, "get_guidance_scale_embedding") and pipe.unet.config.get("time_cond_proj_dim") is not None:
        reason = "this checkpoint takes the guidance scale as an input"
    if reason is not None:
        warnings.warn(
            f"guidance of {name} is off, so the negative embedding has no effect: {reason}", UserWarning, stacklevel=3
        )


def _call_arguments(pipe: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(type(pipe).__call__).parameters)


def _encode(pipe: Any, also: dict[str, int]) -> tuple[Any, ...] | None:
    """What `encode_prompt` of a pipeline returns for "" as a positive prompt; None if it cannot be asked."""
    encoders = [name for name in pipe.components if name.startswith(("text_encoder", "prior_text_encoder"))]
    method = vars(type(pipe)).get("encode_prompt") or next(
        (vars(cls)["encode_prompt"] for cls in type(pipe).__mro__ if "encode_prompt" in vars(cls)), None
    )
    # An encoder that a checkpoint may lack (SD3 without T5) is no reason not to ask.
    if method is None or not encoders or pipe.components[encoders[0]] is None:
        return None
    given = {
        "device": pipe._execution_device,
        "batch_size": 1,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
        "num_waveforms_per_prompt": 1,
        "do_classifier_free_guidance": False,
        **also,
    }
    chosen: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(method).parameters.items())[1:]:
        if name in ("prompt", "prompt_2", "prompt_3", "prompt_4"):
            chosen[name] = [""]
        elif name in given:
            chosen[name] = given[name]
        elif parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            return None  # needs a picture or more
    returned = pipe.encode_prompt(**chosen)
    return returned if isinstance(returned, tuple) else (returned,)


def _fit_length(
    pipe: Any, row: PipelineRow, embeds: Float[Tensor, "1 l d"], mask: Tensor, null: Conditioning | None
) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Embedding and mask at a length that the class can batch with its prompts, and the argument which says so."""
    length = embeds.shape[1]
    parameter = _call_arguments(pipe).get("max_sequence_length")
    if row.length == "padded" and parameter is not None:
        missing = parameter.default - length
        if missing < 0:  # the class pads its prompts to the file's length instead
            return embeds, mask, {"max_sequence_length": length}
        sides = (missing, 0) if row.pads_left else (0, missing)
        return torch.nn.functional.pad(embeds, (0, 0, *sides)), torch.nn.functional.pad(mask, sides), {}
    if row.length == "encoder" and null is not None and null.prompt_embeds.shape[1] != length:
        raise ValueError(
            f"the negative embedding has {length} tokens, {type(pipe).__name__} reads {null.prompt_embeds.shape[1]}; "
            "use a pipeline with the text encoders that it was learned with"
        )
    return embeds, mask, {}


def _pooled(pipe: Any, row: PipelineRow, negative: Conditioning, null: Conditioning | None) -> Tensor:
    pooled = negative.pooled_prompt_embeds
    if pooled is None and null is not None:
        pooled = null.pooled_prompt_embeds
    if pooled is None:
        raise ValueError(
            f"{type(pipe).__name__} needs {row.pooled}, which the file does not hold; load the pipeline with its text "
            'encoders, and that of "" is taken'
        )
    return pooled


def _other_encoder(pipe: Any, row: PipelineRow) -> dict[str, tuple[Tensor, int]]:
    """The null text of a further encoder: argument -> (tensor, where its prompts stand)."""
    if row.other is None:
        return {}
    returned = _encode(pipe, dict(row.other.encode))
    if returned is None:
        names = ", ".join(name for name, _ in row.other.arguments)
        raise ValueError(
            f"{type(pipe).__name__} needs {names} of a further text encoder, which the file does not hold; load the "
            'pipeline with its text encoders, and those of "" are taken'
        )
    return {name: (returned[place], row.other.batch_dim) for name, place in row.other.arguments}


def _dtype(pipe: Any) -> torch.dtype:
    for name in DENOISERS:
        if pipe.components.get(name) is not None:
            return pipe.components[name].dtype
    return pipe.dtype
