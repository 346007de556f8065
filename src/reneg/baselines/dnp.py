"""DNP, diffusion-negative prompting (Desai & Vasconcelos 2024, arXiv 2411.05473)."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from reneg.baselines.captioners import NEAREST, WORLDS_CLIP, Captioner, captioner_name, load_captioner
from reneg.baselines.config import DnpConfig
from reneg.baselines.inputs import fingerprint, model_fingerprint, prompts_of, reward_fingerprint
from reneg.baselines.store import PromptRows
from reneg.files import write_atomically
from reneg.generation import generate, picture_noise
from reneg.interfaces import DiffusionModel
from reneg.models import load_configured
from reneg.negatives import batches, check_prompt_lengths
from reneg.randomness import make_generator
from reneg.report import to_uint8

logger = logging.getLogger(__name__)

OPPOSITES = "opposites"


def sample_opposites(model: DiffusionModel, prompts: Sequence[str], config: DnpConfig) -> Float[Tensor, "b 3 H W"]:
    """Diffusion-negative sampling: a picture in [0, 1] that complies least with each prompt.

    Guidance away from the prompt, `null + s * (null - prompt)`. That is Eq. 5 of ReNeg with the null text in the
    prompt's place and the prompt as the negative, where s is guidance_scale - 1.
    """
    generators = [make_generator(config.seed, f"dnp {prompt}", 0) for prompt in prompts]
    return generate(
        model,
        [""] * len(prompts),
        model.encode_negative_prompt(prompts),
        picture_noise(model, generators),
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        generators=generators,
    )


def find_negatives(
    model: DiffusionModel, captioner: Captioner, prompts: Sequence[str], config: DnpConfig, store: PromptRows
) -> None:
    """Give every prompt that has none yet the caption of its opposite picture."""
    missing = store.missing(prompts)
    for numbers in batches(range(len(missing)), config.batch_size):
        part = missing[numbers.start : numbers.stop]
        images = sample_opposites(model, part, config)
        captions = captioner(images)
        names = [f"{OPPOSITES}/{hashlib.sha256(prompt.encode()).hexdigest()[:20]}.png" for prompt in part]
        for name, pixels in zip(names, to_uint8(images).numpy(), strict=True):
            picture = Image.fromarray(pixels)
            write_atomically(config.output_dir / name, lambda path, picture=picture: picture.save(path, "PNG"))
        store.add(
            {
                "prompt": prompt,
                "negative": caption,
                "opposite": name,
                "denoiser_evaluations": 2 * config.num_inference_steps,
            }
            for prompt, caption, name in zip(part, captions, names, strict=True)
        )
        logger.info("dnp: %d of %d prompts", numbers.stop, len(missing))


def run_dnp(config: DnpConfig) -> Path:
    """`reneg baseline dnp`; gives negatives.jsonl.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    prompts = prompts_of(config)
    name = captioner_name(config.captioner, config.model)
    captioner = reward_fingerprint(WORLDS_CLIP) if name == NEAREST else fingerprint(name)
    fingerprints = {"model": model_fingerprint(config.model), "captioner": captioner}
    store = PromptRows(replace(config, captioner=name), fingerprints)
    model = load_configured(config, device=config.device)
    check_prompt_lengths(prompts, model, source=config.prompts)
    find_negatives(model, load_captioner(name, device=config.device), prompts, config, store)
    return store.file
