"""The negative embedding as a file: tensors, where they came from, and which encoder they fit."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reneg.encoders import models_of_shape
from reneg.files import write_atomically
from reneg.hub import BEFORE_AFTER, HUB_FILE, download, model_card, read_evaluation, upload
from reneg.interfaces import Conditioning
from reneg.official import DTYPES, looks_official, read_official
from reneg.pipelines import encode_null, find_row, pipeline_arguments, warn_without_guidance

logger = logging.getLogger(__name__)

FORMAT = "reneg/1"
EMBEDS, NULL_EMBEDS = "negative_prompt_embeds", "null_prompt_embeds"
POOLED, MASK = "negative_pooled_prompt_embeds", "negative_prompt_attention_mask"
UNPROVEN = "not in the file"
"""The `fingerprint` in the metadata of a file without the null text's encoding: an official one, converted."""
HUB_PREFIX = "hub:"
"""Begins a `--negative` value that names a repository of the hub."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
FINGERPRINT_TOLERANCE = 0.02
"""Relative distance up to which two encodings of "" count as the same encoder: half precision stays far below it,
another checkpoint's encoder far above."""


def tensor_hash(*tensors: Tensor) -> str:
    """SHA-256 of tensors' float32 bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class NegativeEmbedding:
    """A learned negative embedding."""

    negative_prompt_embeds: Float[Tensor, "1 l d"]
    """The embedding, float32, in the text encoder's output space."""
    null_prompt_embeds: Float[Tensor, "1 l d"] | None
    """What the encoder gives for "": the fingerprint of the encoder it belongs to. None in official files alone."""
    metadata: dict[str, str] = field(default_factory=dict)
    """How it was learned; every value is a string, as safetensors wants."""
    negative_pooled_prompt_embeds: Float[Tensor, "1 p"] | None = None
    """The negative vector of the whole text, for families that have one; float32."""
    negative_prompt_attention_mask: Float[Tensor, "1 l"] | None = None
    """1 for the tokens that the denoiser reads, for families that mask; float32."""

    @classmethod
    def learned(
        cls, negative: Conditioning, null_prompt_embeds: Float[Tensor, "1 l d"], metadata: dict[str, str]
    ) -> "NegativeEmbedding":
        """A conditioning of one prompt as an embedding of its own: detached, float32, on the CPU."""
        tensors = (
            negative.prompt_embeds,
            null_prompt_embeds,
            negative.pooled_prompt_embeds,
            negative.prompt_attention_mask,
        )
        embeds, null, pooled, mask = (None if tensor is None else tensor.detach().float().cpu() for tensor in tensors)
        return cls(cast(Tensor, embeds), cast(Tensor, null), metadata, pooled, mask)

    def expand(self, num_prompts: int) -> Float[Tensor, "b l d"]:
        """The `negative_prompt_embeds` argument of a diffusers pipeline for a number of prompts.

        diffusers reshapes a [1, l, d] embedding silently when it is given with several prompts: pass this instead.
        """
        return self.negative_prompt_embeds.expand(num_prompts, -1, -1)

    def conditioning(self) -> Conditioning:
        """The negative conditioning of one prompt."""
        return Conditioning(
            self.negative_prompt_embeds, self.negative_pooled_prompt_embeds, self.negative_prompt_attention_mask
        )

    def facts(self) -> dict[str, str]:
        """What it is and how it was learned, as label -> text."""
        return describe(self)

    def for_pipeline(
        self,
        pipe: Any,
        *,
        num_prompts: int = 1,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
    ) -> dict[str, Any]:
        """The negative arguments of a diffusers pipeline's call: `pipe(prompts, **negative.for_pipeline(pipe, …))`.

        What the class needs and the file does not hold (a pooled vector, a second text encoder) is of the null text.
        PixArt's and Sana's classes refuse texts beside it: give them `prompt_embeds` and `prompt_attention_mask` of
        `pipe.encode_prompt` in place of the prompts (`reneg.hub.CALLS` has the lines).

        Args:
            pipe: a diffusers pipeline; docs/pipelines.md lists the classes.
            num_prompts: how many prompts the call gets.
            num_images_per_prompt: the call's `num_images_per_prompt`, or `num_videos_per_prompt`.
            guidance_scale: what the call gets as the argument that guides (`true_cfg_scale` of some classes); None for
                the class's default. Where it turns guidance off, a UserWarning says so.

        Raises:
            ValueError: the class takes no negative embedding, or its loaded text encoder is not the file's.
        """
        row = find_row(pipe)
        null = encode_null(pipe, row)
        own = self.null_prompt_embeds
        if null is not None and (own is None or own.any()):  # SDXL's null text may be zeros, which tell nothing
            # Encoders that pad give the same tokens at any length: the leading ones, or the last where they pad left.
            shared = min(null.prompt_embeds.shape[1], self.negative_prompt_embeds.shape[1])
            part = slice(-shared, None) if row.pads_left else slice(shared)
            cut = self.negative_prompt_embeds[:, part], None if own is None else own[:, part]
            same_length = replace(
                self, negative_prompt_embeds=cut[0], null_prompt_embeds=cut[1], negative_prompt_attention_mask=None
            )
            same_length.check_encoder(null.prompt_embeds[:, part], type(pipe).__name__)
        warn_without_guidance(pipe, row, guidance_scale)
        counts = {"num_prompts": num_prompts, "num_images_per_prompt": num_images_per_prompt}
        return pipeline_arguments(pipe, row, self.conditioning(), null, **counts)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds, by name: float32, on the CPU, without what the family does not have."""
        named = {
            EMBEDS: self.negative_prompt_embeds,
            NULL_EMBEDS: self.null_prompt_embeds,
            POOLED: self.negative_pooled_prompt_embeds,
            MASK: self.negative_prompt_attention_mask,
        }
        # Cloned: safetensors refuses tensors that share memory, such as a mask that is one number expanded.
        layout = torch.contiguous_format
        return {
            name: t.detach().float().cpu().clone(memory_format=layout) for name, t in named.items() if t is not None
        }

    def check_encoder(self, null_prompt_embeds: Float[Tensor, "1 l d"], model_name: str) -> None:
        """Refuse another text encoder than the one that it was learned with; without a fingerprint, another shape.

        Raises:
            ValueError: the model's encoding of "" is not the file's.
        """
        got, own = tuple(null_prompt_embeds.shape[1:]), tuple(self.negative_prompt_embeds.shape[1:])
        if got == own and self.null_prompt_embeds is None:
            logger.warning(
                "the encoder of %s is unproven: the file has no fingerprint, only its shape fits", model_name
            )
            return
        if got == own and self.null_prompt_embeds is not None:
            reference = self.null_prompt_embeds.float()
            distance = (null_prompt_embeds.float().to(reference.device) - reference).norm() / reference.norm()
            if float(distance) <= FINGERPRINT_TOLERANCE:
                return
        base = self.metadata.get("base_model", "an unknown model")
        raise ValueError(
            f"this negative embedding ({own[0]}x{own[1]}, learned on {base}) belongs to another text encoder than "
            f"that of {model_name} ({got[0]}x{got[1]}); use it with models that share the encoder of {base} "
            f"(this shape is read by {models_of_shape(*own)}), or learn one with `reneg learn --model`"
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically, with a checksum of its tensors in its metadata."""
        tensors = self.tensors()
        metadata = {**self.metadata, "format": FORMAT, "sha256": tensor_hash(*tensors.values())}
        write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> "NegativeEmbedding":
        """Read a file that `save` wrote, or an official `.bin`, of which no code is executed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a negative embedding, is damaged, or holds NaN or infinity.
        """
        path = Path(path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name the .safetensors file in it")
        if not path.is_file():
            raise FileNotFoundError(f"no negative embedding at {path}; `reneg learn` writes one")
        if looks_official(path):
            embeds, mask, metadata = read_official(path)
            return cls(embeds, None, metadata | {"fingerprint": UNPROVEN}, None, mask)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a readable safetensors file ({_shown(str(error))})") from error
        needed = {EMBEDS} if metadata.get("fingerprint") == UNPROVEN else {EMBEDS, NULL_EMBEDS}
        if not needed <= tensors.keys():
            raise ValueError(
                f"{path} holds {_shown(str(sorted(tensors)))}, a negative embedding holds {EMBEDS} and {NULL_EMBEDS}"
            )
        _check_shapes(tensors, path)
        tensors = {name: tensors[name].float() for name in (EMBEDS, NULL_EMBEDS, POOLED, MASK) if name in tensors}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"{path} holds NaN or infinity; learn it again from an earlier checkpoint")
        if metadata.get("sha256", "") != tensor_hash(*tensors.values()):
            raise ValueError(f"{path} is damaged: its tensors do not match the checksum in its metadata")
        return cls(tensors[EMBEDS], tensors.get(NULL_EMBEDS), metadata, tensors.get(POOLED), tensors.get(MASK))

    @classmethod
    def open(cls, reference: str) -> "NegativeEmbedding":
        """What a `--negative` value names: a file, or `hub:owner/name`, with `hub:owner/name:FILE` for another file.

        Raises:
            ValueError, OSError: as of `load` and `from_pretrained`.
        """
        return cls.load(locate(reference))

    @classmethod
    def from_pretrained(
        cls, repo_id: str, *, filename: str = HUB_FILE, revision: str | None = None
    ) -> "NegativeEmbedding":
        """The embedding in a repository of the hub, "owner/name"; also official ones, by their `filename`.

        Offline (HF_HUB_OFFLINE=1) it comes from what was downloaded before.

        Raises:
            ValueError: no repository name, or as of `load`.
            OSError: it cannot be downloaded.
        """
        return cls.load(download(repo_id, filename=filename, revision=revision))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str,
        evaluation: Path | None = None,
        private: bool = False,
        commit_message: str = "Upload a negative embedding",
    ) -> str:
        """Write the file and a model card to a repository of the hub, which is made if need be.

        Args:
            license: an identifier of the hub's, such as openrail or apache-2.0; the base model's and the reward's
                licences may bind it.
            evaluation: a folder of `reneg evaluate` with this negative in it, whose figures and pictures the card
                then shows.

        Returns:
            The commit's address.

        Raises:
            ValueError: no repository name, or an evaluation of other negatives.
            OSError: no network, or no right to write there.
        """
        evaluated = None
        if evaluation is not None:
            evaluated = read_evaluation(evaluation, tensor_hash(*self.conditioning().tensors()))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save(folder / HUB_FILE)
            metadata = NegativeEmbedding.load(folder / HUB_FILE).metadata  # with the checksum
            tokens, width = self.negative_prompt_embeds.shape[1:]
            card = model_card(repo_id, metadata, (tokens, width), license=license, evaluated=evaluated)
            if evaluation is not None:
                shutil.copyfile(evaluation / BEFORE_AFTER, folder / BEFORE_AFTER)
            (folder / "README.md").write_text(card, encoding="utf-8")
            return upload(folder, repo_id, private=private, commit_message=commit_message)


def _check_shapes(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that are no negative embedding.

    Raises:
        ValueError: another shape or dtype than allowed, or a tensor of an unknown name.
    """
    embeds = tensors[EMBEDS]
    shapes = {EMBEDS: (1, *embeds.shape[1:]), NULL_EMBEDS: (1, *embeds.shape[1:]), MASK: (1, *embeds.shape[1:2])}
    right = embeds.ndim == 3 and embeds.numel() > 0
    for name, tensor in tensors.items():
        pooled = tensor.ndim == 2 and len(tensor) == 1 and tensor.numel() > 0
        fits = pooled if name == POOLED else tuple(tensor.shape) == shapes.get(name)
        right = right and fits and tensor.dtype in DTYPES
    if not right:
        got = ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(
            f"{path} holds {_shown(got)}; {EMBEDS} and {NULL_EMBEDS} must be floating point of one shape "
            f"(1, tokens, width), {POOLED}, if there is one, (1, width), and {MASK} (1, tokens)"
        )


def locate(reference: str) -> Path:
    """The file that a `--negative` value names, downloaded if it is `hub:owner/name` or `hub:owner/name:FILE`.

    Raises:
        ValueError: no repository name.
        OSError: it cannot be downloaded.
    """
    if not reference.startswith(HUB_PREFIX):
        return Path(reference)
    repo_id, _, filename = reference.removeprefix(HUB_PREFIX).partition(":")
    return download(repo_id, filename=filename or HUB_FILE, revision=None)


def is_file_reference(text: str) -> bool:
    """Whether a `--negative` value names a file: a weight-file suffix or a path separator, as hub: values have."""
    return text.lower().endswith(WEIGHT_SUFFIXES) or "/" in text or os.sep in text


def _shown(text: str) -> str:
    """A text out of a file, fit for one line on a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= 400 else printable[:400] + "…"


def describe(negative: NegativeEmbedding) -> dict[str, str]:
    """What a file is, as label -> text: for `reneg inspect` and reports."""
    embeds = negative.negative_prompt_embeds[0].double()
    facts = {
        "shape": f"{embeds.shape[0]} tokens x {embeds.shape[1]}",
        "this shape is read by": models_of_shape(*embeds.shape),
        **_statistics(embeds),
    }
    if negative.null_prompt_embeds is None:
        facts["encoder"] = "unproven: the file has no null text to compare; only the shape is checked"
    else:
        null = negative.null_prompt_embeds[0].double()
        delta = embeds - null
        energy = torch.linalg.svdvals(delta).pow(2).cumsum(0)
        rank = int((energy < 0.9 * energy[-1]).sum()) + 1 if float(energy[-1]) > 0 else 0
        facts["distance from the null text"] = f"{float(delta.norm() / null.norm()):.3f} of its norm"
        facts["directions with 90 % of that change"] = str(rank)
    told = {key: value for key, value in sorted(negative.metadata.items()) if key not in ("format", "config")}
    told = {key.replace("_", " "): value for key, value in told.items()}
    told |= {f"config: {key}": value for key, value in _settings(negative.metadata).items()}
    # What is measured comes first, and a file's own texts cannot replace it.
    return {_shown(key): _shown(value) for key, value in (facts | told | facts).items()}


def _settings(metadata: dict[str, str]) -> dict[str, str]:
    """The settings in a file's metadata, whatever somebody wrote there."""
    try:
        settings = json.loads(metadata.get("config", "{}"))
    except (ValueError, RecursionError):
        return {"unreadable": metadata["config"]}
    return {key: str(value) for key, value in settings.items()} if isinstance(settings, dict) else {}


def _statistics(embeds: Float[Tensor, "l d"]) -> dict[str, str]:
    """The numbers by which a file is recognised; in float64, where no float32 values overflow."""
    norms, singular = embeds.norm(dim=1), torch.linalg.svdvals(embeds)
    low, high = int(norms.argmin()), int(norms.argmax())
    ends = f"{float(norms[low]):.3f} at {low}, {float(norms[high]):.3f} at {high}"
    stds = embeds.std(dim=1, correction=min(1, embeds.shape[1] - 1))  # of a single number: 0
    first, rest = embeds[0], F.normalize(embeds[1:], dim=1)
    facts = {
        "mean / std": f"{float(embeds.mean()):.6f} / {float(embeds.std(correction=min(1, embeds.numel() - 1))):.6f}",
        "min / max": f"{float(embeds.min()):.5f} / {float(embeds.max()):.5f}",
        "norm": f"{float(embeds.norm()):.4f}",
        "token norms": f"{float(norms.mean()):.3f} ({ends})",
        "token stds": f"{float(stds.min()):.4f} to {float(stds.max()):.4f}",
        "token 0, mean / std": f"{float(first.mean()):.3f} / {float(stds[0]):.4f}",
        "token 0, min / max": f"{float(first.min()):.3f} / {float(first.max()):.3f}",
        "rank (to 0.001)": str(int((singular > 1e-3 * singular[0]).sum())),
        "first values": ", ".join(f"{value:.6f}" for value in first[:3].tolist()),
    }
    if len(rest) > 1:
        pairs = len(rest) * (len(rest) - 1)
        among = (rest.sum(0).square().sum() - rest.square().sum()) / pairs  # all pairs, without a matrix of them
        cosines = f"{float(among):.4f}, with token 0 {float((rest @ F.normalize(first, dim=0)).mean()):.4f}"
        facts["mean cosine of tokens 1 and on"] = cosines
    return facts
