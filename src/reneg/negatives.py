"""What `--negative` means, and pictures in a folder: the work of `reneg generate`."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from reneg.config import GenerateConfig
from reneg.files import make_output_dir, write_atomically
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning, DiffusionModel
from reneg.merging import between
from reneg.models import load_configured
from reneg.negative import NegativeEmbedding, is_file_reference, locate
from reneg.prompts import is_public_set, read_prompts
from reneg.report import to_uint8
from reneg.targets.weights_files import open_weights
from reneg.world import DENOISERS, load_prompts

logger = logging.getLogger(__name__)

HANDCRAFTED_NEGATIVE_PROMPT = (
    "distorted, ugly, blurry, low resolution, low quality, bad, deformed, disgusting, Overexposed, Simple background, "
    "Plain background, Grainy, Underexposed, too dark, too bright, too low contrast, too high contrast, Broken, "
    "Macabre, artifacts, oversaturated"
)
"""N* of the official ReNeg repository, for every model but the world, which has one in its own vocabulary."""


def handcrafted_negative_prompt(model: DiffusionModel) -> str:
    """N*: the hand-written negative prompt that a model is compared with."""
    return load_prompts().handcrafted_negative_prompt if model.name in DENOISERS else HANDCRAFTED_NEGATIVE_PROMPT


def resolve_negative(value: str, model: DiffusionModel, *, flag: str = "--negative") -> Conditioning:
    """What a `--negative` value stands for, as a conditioning of one prompt on the model's device.

    Args:
        value: `null`, `handcrafted`, a file (a weight-file suffix or a path separator in it), `hub:owner/name`, or any
            other text, which is a negative prompt.
        flag: named in errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty or too long a text, a damaged file, or a file for another text encoder.
    """
    if is_file_reference(value):
        return file_conditioning(NegativeEmbedding.open(value), model)
    if not value.strip():
        raise ValueError(f"{flag}: got an empty text; write null for the null text")
    if value == "null":
        return model.null_conditioning()
    text = handcrafted_negative_prompt(model) if value == "handcrafted" else value
    check_prompt_lengths([text], model, flag=flag)
    return model.encode_negative_prompt([text])


def file_conditioning(embedding: NegativeEmbedding, model: DiffusionModel) -> Conditioning:
    """A learned embedding as a conditioning of one prompt on the model's device.

    Raises:
        ValueError: it was learned with another text encoder.
    """
    embedding.check_encoder(model.encode_negative_prompt([""]).filled().prompt_embeds, model.name)
    return embedding.conditioning().to(model.device)


def check_prompt_lengths(
    prompts: Sequence[str], model: DiffusionModel, *, flag: str = "--prompts", source: Path | None = None
) -> None:
    """Refuse prompts that the text encoder would cut off; those of a public set are only reported.

    Args:
        flag: named in messages.
        source: the `--prompts` value they come from.

    Raises:
        ValueError: some are beyond the limit; the message tells how many, and shows the first.
    """
    too_long = beyond_limit(prompts, model)
    if too_long:
        first = too_long[0]
        shown = first if len(first) <= 60 else first[:60] + "…"
        if is_public_set(source):  # its published numbers come from prompts that were cut off
            facts = (flag, len(too_long), len(prompts), model.max_tokens, model.name)
            logger.warning("%s: %d of %d prompts are beyond the limit of %d tokens of %s and are cut off", *facts)
            return
        raise ValueError(
            f"{flag}: {len(too_long)} of {len(prompts)} prompts are beyond the limit of {model.max_tokens} tokens of "
            f"{model.name}; shorten them (the first has {model.count_tokens(first)}: {shown!r})"
        )


def beyond_limit(texts: Sequence[str], model: DiffusionModel) -> list[str]:
    """The texts that the text encoder would cut off."""
    return [text for text in texts if model.count_tokens(text) > model.max_tokens]


def batches(numbers: range, batch_size: int) -> Iterator[range]:
    """Consecutive numbers in batches; the last may be smaller."""
    for start in range(numbers.start, numbers.stop, batch_size):
        yield range(start, min(start + batch_size, numbers.stop))


def generate_pictures(config: GenerateConfig) -> list[Path]:
    """`reneg generate`: write 00000.png, 00001.png, … and an `index.json` that tells what each one is.

    Returns:
        The pictures; the index is written last, so a folder with an index is complete.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    prompts = prompts_to_draw(config)
    make_output_dir(config.output_dir)
    model = load_configured(config, device=config.device)
    return write_pictures(model, prompts, config)


def prompts_to_draw(config: GenerateConfig) -> list[str]:
    """Those that are given, or those of the file, all groups one after the other."""
    if config.prompts is None:
        return config.prompt
    return [prompt for group in read_prompts(config.prompts).values() for prompt in group]


def write_pictures(
    model: DiffusionModel,
    prompts: list[str],
    config: GenerateConfig,
    own: Mapping[str, Conditioning] | None = None,
) -> list[Path]:
    """`generate_pictures` for a model and prompts that are loaded already.

    Args:
        own: each prompt's own negative, which takes the place of the settings'.
    """
    check_prompt_lengths(prompts, model, flag="--prompts" if config.prompts else "--prompt", source=config.prompts)
    with weights_in_force(config.weights, model):
        negatives = own or dict.fromkeys(prompts, resolve_negative(config.negative, model))
        if config.strength != 1:
            null = resolve_negative("null", model)
            negatives = {prompt: between(null, negative, config.strength) for prompt, negative in negatives.items()}
        pictures = _draw(model, prompts, negatives, config)
    _write_index(config, pictures)
    return [config.output_dir / picture["file"] for picture in pictures]


@contextmanager
def weights_in_force(reference: str | None, model: DiffusionModel) -> Iterator[None]:
    """The model has a file's weights within the block; None changes nothing.

    Args:
        reference: a file, a folder with a denoiser's file in it, or hub:owner/name:FILE.

    Raises:
        OSError: no such file, or it cannot be downloaded.
        ValueError: it holds no weights, or those of another model.
    """
    if reference is None:
        yield
        return
    path = locate(reference)
    if not path.exists():
        raise FileNotFoundError(f"--weights {path}: no such file or folder")
    weights = open_weights(path, model)
    if weights is None:
        raise ValueError(
            f"--weights {path} holds no weights of {model.name}: give a LoRA's, a denoiser's or a text encoder's "
            "safetensors file, as `reneg learn --target` writes them; an embedding is a --negative"
        )
    with weights.applied(model):
        yield


def _draw(
    model: DiffusionModel, prompts: list[str], negatives: Mapping[str, Conditioning], config: GenerateConfig
) -> list[dict]:
    """Sample all pictures and write them; what each one is.

    Args:
        negatives: of each prompt.
    """
    # Picture number i is noise i % num_images_per_prompt of its prompt.
    repeated = [prompt for prompt in prompts for _ in range(config.num_images_per_prompt)]
    pictures = []
    for numbers in batches(range(len(repeated)), config.batch_size):
        generators = picture_generators(config.seed, numbers.start, len(numbers))
        drawn = repeated[numbers.start : numbers.stop]
        images = generate(
            model,
            drawn,
            Conditioning.concatenate(*(negatives[prompt] for prompt in drawn)),
            picture_noise(model, generators),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        )
        for number, pixels in zip(numbers, to_uint8(images).numpy(), strict=True):
            name, picture = f"{number:05d}.png", Image.fromarray(pixels)
            write_atomically(config.output_dir / name, lambda path, picture=picture: picture.save(path, "PNG"))
            pictures.append({"file": name, "prompt": repeated[number], "seed": config.seed, "number": number})
    return pictures


def _write_index(config: GenerateConfig, pictures: list[dict]) -> None:
    names = ("model", "revision", "dtype", "scheduler", "guidance_scale", "num_inference_steps")
    names += ("negative", "strength", "weights", "refine", "seed")
    index = {**{name: vars(config)[name] for name in names}, "pictures": pictures}
    text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    write_atomically(config.output_dir / "index.json", lambda path: path.write_text(text, encoding="utf-8"))
