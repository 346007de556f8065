"""Learn a negative embedding on the bundled world, then use the file in diffusers' own pipeline."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

import reneg
from reneg.world import WEIGHTS

OUTPUT = Path("runs/example")


def main() -> None:
    # The defaults are the paper's, made for Stable Diffusion; the world's preset takes minutes. Ten steps move it.
    config = reneg.LearnConfig(output_dir=OUTPUT, **reneg.preset("world") | {"max_train_steps": 10})
    negative = reneg.learn(config)

    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "generator")
    prompts = ["noto drawing of a large fox on a blue background", "fluent drawing of a rocket on a yellow background"]
    images = pipe(
        prompts,
        **negative.for_pipeline(pipe, num_prompts=len(prompts)),
        guidance_scale=7.5,
        num_inference_steps=30,
        generator=torch.Generator().manual_seed(0),
    ).images
    for number, image in enumerate(images):
        image.save(OUTPUT / f"example-{number}.png")


if __name__ == "__main__":
    main()
