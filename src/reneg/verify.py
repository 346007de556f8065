"""Whether a negative embedding changes a picture at all: the work of `reneg verify`."""

from dataclasses import dataclass

from PIL import Image

from reneg.errors import VerificationError
from reneg.file_config import VerifyConfig
from reneg.files import make_output_dir, write_atomically
from reneg.generation import generate, picture_generators, picture_noise
from reneg.models import load_configured
from reneg.negative import NegativeEmbedding
from reneg.negatives import check_prompt_lengths, file_conditioning
from reneg.report import to_uint8

VISIBLE = 0.5 / 255
"""Half a level of an 8-bit picture: what lies below cannot be seen in a file."""


@dataclass(frozen=True)
class Verification:
    """How far a picture with the file is from one with the null text, same prompt and noise, in [0, 1]."""

    prompt: str
    mean_difference: float
    """Mean over pixels and channels of the absolute difference."""
    largest_difference: float
    changed_pixels: float
    """Share of the pixels that differ by at least half an 8-bit level in some channel."""


def verify(config: VerifyConfig) -> Verification:
    """Render one prompt with the null text and with the file, from one noise; write null.png and negative.png.

    Raises:
        VerificationError: no pixel changed visibly.
        ValueError, OSError: with one line that names the flag.
    """
    embedding = NegativeEmbedding.load(config.file)
    make_output_dir(config.output_dir)
    model = load_configured(config, device=config.device)
    check_prompt_lengths([config.prompt], model, flag="--prompt")
    pictures = []
    for name, negative in (("null", model.null_conditioning()), ("negative", file_conditioning(embedding, model))):
        generators = picture_generators(config.seed, 0, 1)
        picture = generate(
            model,
            [config.prompt],
            negative,
            picture_noise(model, generators),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        )
        image = Image.fromarray(to_uint8(picture)[0].numpy())
        write_atomically(config.output_dir / f"{name}.png", lambda path, image=image: image.save(path, "PNG"))
        pictures.append(picture[0].float())
    difference = (pictures[1] - pictures[0]).abs()
    largest = float(difference.max())
    if not largest >= VISIBLE:  # NaN is no change either
        raise VerificationError(
            f"{config.file} changes nothing on {config.model}: the largest difference is {largest:.1e}, and one that "
            f"can be seen is {VISIBLE:.1e}; learn it for longer, or check with `reneg inspect` what it is"
        )
    changed = float((difference.amax(0) >= VISIBLE).float().mean())
    return Verification(config.prompt, float(difference.mean()), largest, changed)
