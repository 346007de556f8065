"""Learn a negative embedding on the bundled world, then use the file in diffusers' own pipeline."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

import reneg
from reneg.world import WEIGHTS

OUTPUT = Path("runs/example")


def main() -> None:
    # The world's preset (reneg/configs/world.yaml) has more steps; ten are enough to see it move.
    config = reneg.LearnConfig(
        output_dir=OUTPUT, max_train_steps=10, train_batch_size=8, learning_rate=0.05, validation_steps=10
    )
    negative = reneg.learn(config)

    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "generator")
    prompts = ["noto drawing of a large fox on a blue background", "fluent drawing of a rocket on a yellow background"]
    images = pipe(
        prompts,
        negative_prompt_embeds=negative.expand(len(prompts)),
        guidance_scale=7.5,
        num_inference_steps=30,
        generator=torch.Generator().manual_seed(0),
    ).images
    for number, image in enumerate(images):
        image.save(OUTPUT / f"example-{number}.png")


if __name__ == "__main__":
    main()
