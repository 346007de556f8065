"""Several negative embeddings into one, and one between the null text and what was learned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Conditioning
from reneg.negative import UNPROVEN, NegativeEmbedding

Method = Literal["lerp", "slerp"]
SUM_TOLERANCE = 1e-6
"""How far from 1 weights may sum and still count as a mean; texts such as 0.333333 are rounded."""
MEAN_ITERATIONS = 100


def merge(
    embeddings: Sequence[NegativeEmbedding], names: Sequence[str], weights: Sequence[float], method: Method
) -> NegativeEmbedding:
    """null + sum_i w_i (e_i - null), or the weighted mean on the sphere, with its sources in the metadata.

    With `lerp` the weights may sum to anything: one file of weight 0.6 is that file at strength 0.6, a sum above 1
    extrapolates, a negative weight takes away. `slerp` needs weights that are not negative and sum to 1.

    Args:
        names: of the embeddings, for errors and metadata.
        weights: as many as embeddings.

    Raises:
        ValueError: files of different encoders, shapes or masks, or weights that are not allowed.
    """
    _check_weights(embeddings, weights, method)
    first = embeddings[0]
    for embedding, name in zip(embeddings[1:], names[1:], strict=True):
        _check_alike(first, embedding, f"{names[0]} and {name}")
    nulls = [embedding.null_prompt_embeds for embedding in embeddings]
    null = nulls[0] if all(tensor is not None for tensor in nulls) else None
    combine = _lerp if method == "lerp" else spherical_mean
    merged = combine([embedding.negative_prompt_embeds.double() for embedding in embeddings], weights)
    if null is not None and method == "lerp":
        merged = merged + (1 - sum(weights)) * null.double()
    pooled = [embedding.negative_pooled_prompt_embeds for embedding in embeddings]
    vectors = [tensor.double() for tensor in pooled if tensor is not None]
    merged_pooled = combine(vectors, weights).float() if vectors else None
    metadata = _provenance(embeddings, names, weights, method)
    if null is None:
        metadata["fingerprint"] = UNPROVEN
    return NegativeEmbedding(merged.float(), null, metadata, merged_pooled, first.negative_prompt_attention_mask)


def merge_files(files: Sequence[Path], weights: Sequence[float], method: Method, output: Path) -> NegativeEmbedding:
    """`reneg merge`: load, merge and save; without weights, the mean.

    Raises:
        ValueError, OSError: with one line that names the file or the flag.
    """
    embeddings = [NegativeEmbedding.load(file) for file in files]
    chosen = list(weights) or [1 / len(files)] * len(files)
    merged = merge(embeddings, [file.name for file in files], chosen, method)
    merged.save(output)
    return merged


def between(null: Conditioning, negative: Conditioning, strength: float) -> Conditioning:
    """null + strength (negative - null): 0 is the null text, 1 the negative; above 1 goes beyond it.

    A masked null text is filled, which changes nothing where it reads one token, and the negative's mask holds.

    Raises:
        ValueError: the two have different lengths, or one of them alone has a mask.
    """
    if strength == 1:
        return negative
    if strength == 0:
        return null
    masks = null.prompt_attention_mask, negative.prompt_attention_mask
    if null.prompt_embeds.shape != negative.prompt_embeds.shape or (masks[0] is None) != (masks[1] is None):
        raise ValueError(
            f"--strength {strength}: this negative reads other tokens than the null text, so nothing lies between; "
            "leave --strength out, or give a file as --negative"
        )
    null = null.filled()
    pooled = null.pooled_prompt_embeds, negative.pooled_prompt_embeds
    embeds = null.prompt_embeds + strength * (negative.prompt_embeds - null.prompt_embeds)
    if pooled[0] is None or pooled[1] is None:
        return Conditioning(embeds, negative.pooled_prompt_embeds, masks[1])
    return Conditioning(embeds, pooled[0] + strength * (pooled[1] - pooled[0]), masks[1])


def _lerp(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * vector for vector, weight in zip(vectors, weights, strict=True)]).sum(0)


def spherical_mean(vectors: Sequence[Float[Tensor, "*n d"]], weights: Sequence[float]) -> Float[Tensor, "*n d"]:
    """The weighted mean of directions along great circles, with the weighted mean length, token by token.

    Of two vectors this is slerp (Shoemake, SIGGRAPH 1985); of more it is the mean on the sphere (Buss and Fillmore,
    ACM TOG 2001, algorithm A1), which depends on no order. A token that is zero anywhere has no direction: its mean
    is linear.

    Raises:
        ValueError: opposite directions, between which lie many great circles.
    """
    linear = _lerp(vectors, weights)
    lengths = torch.stack([vector.norm(dim=-1, keepdim=True) for vector in vectors])
    units = torch.stack([F.normalize(vector, dim=-1) for vector in vectors])
    share = torch.tensor(weights, dtype=units.dtype).view(-1, *[1] * (units.ndim - 1))
    start = (share * units).sum(0)
    directed = (lengths > 0).all(0)
    if bool((directed & (start.norm(dim=-1, keepdim=True) < 1e-6)).any()):
        raise ValueError("--method slerp: some tokens point in opposite directions; use --method lerp")
    mean = F.normalize(start, dim=-1)
    for _ in range(MEAN_ITERATIONS):
        cosine = (units * mean).sum(-1, keepdim=True)
        aside = units - cosine * mean  # what a direction has across the mean's
        sine = aside.norm(dim=-1, keepdim=True)
        tangent = (share * torch.atan2(sine, cosine) * F.normalize(aside, dim=-1)).sum(0)
        angle = tangent.norm(dim=-1, keepdim=True)
        mean = F.normalize(mean * angle.cos() + tangent * torch.sinc(angle / torch.pi), dim=-1)
        if float((angle * directed).max()) < 1e-12:
            break
    return torch.where(directed, mean * (share * lengths).sum(0), linear)


def _check_weights(embeddings: Sequence[NegativeEmbedding], weights: Sequence[float], method: Method) -> None:
    if len(weights) != len(embeddings):
        raise ValueError(f"--weights: got {len(weights)} for {len(embeddings)} files; give one for each file")
    total = sum(weights)
    if abs(total - 1) <= SUM_TOLERANCE and (method == "lerp" or min(weights) >= 0):
        return
    if method == "slerp":
        raise ValueError(
            f"--weights sum to {total:g}: --method slerp takes weights from 0 that sum to 1; change them, or use lerp"
        )
    if any(embedding.null_prompt_embeds is None for embedding in embeddings):
        raise ValueError(
            f"--weights sum to {total:g}: an official file has no null text to add, so they must sum to 1"
        )
    if any(embedding.negative_pooled_prompt_embeds is not None for embedding in embeddings):
        raise ValueError(f"--weights sum to {total:g}: files with a pooled vector have none of the null text, so to 1")


def _check_alike(first: NegativeEmbedding, other: NegativeEmbedding, which: str) -> None:
    shapes = [tuple(embedding.negative_prompt_embeds.shape[1:]) for embedding in (first, other)]
    if shapes[0] != shapes[1]:
        told = " and ".join(f"{tokens}x{width}" for tokens, width in shapes)
        raise ValueError(f"{which} are for different text encoders ({told}); merge files of one encoder")
    if first.null_prompt_embeds is not None and other.null_prompt_embeds is not None:
        try:
            first.check_encoder(other.null_prompt_embeds, "the other")
        except ValueError as error:
            raise ValueError(
                f"{which} are for different text encoders, by their encodings of the null text; merge files of one"
            ) from error
    pooled = [embedding.negative_pooled_prompt_embeds for embedding in (first, other)]
    if (pooled[0] is None) != (pooled[1] is None) or (
        pooled[0] is not None and pooled[1] is not None and pooled[0].shape != pooled[1].shape
    ):
        raise ValueError(f"{which} have different pooled vectors; merge files of one model family")
    if not _same(first.negative_prompt_attention_mask, other.negative_prompt_attention_mask):
        raise ValueError(f"{which} have different masks; merge files of one model family")


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and bool(torch.equal(a.bool().cpu(), b.bool().cpu())))


def _provenance(
    embeddings: Sequence[NegativeEmbedding], names: Sequence[str], weights: Sequence[float], method: Method
) -> dict[str, str]:
    """What all files agree on of the model they are for, and each file's name, checksum, weight and own origin."""
    known = ("base_model", "family", "guidance_scale", "guidance_formula", "license")
    first, *others = (embedding.metadata for embedding in embeddings)
    same = {key: first[key] for key in known if key in first and all(o.get(key) == first[key] for o in others)}
    if "base_model" not in same:
        bases = {embedding.metadata.get("base_model", "an unknown model"): None for embedding in embeddings}
        same["base_model"] = " and ".join(bases)
    kept = ("base_model", "reward", "step", "seed", "merged_from", "merge_method", "source", "sha256")
    sources = [
        {"file": name, "weight": weight} | {key: e.metadata[key] for key in kept if key in e.metadata}
        for name, weight, e in zip(names, weights, embeddings, strict=True)
    ]
    return same | {"source": "merged", "merge_method": method, "merged_from": json.dumps(sources)}
