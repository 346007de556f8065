"""What is proven of every family with more than one text embedding: pooled vectors or masks, on a tiny pipeline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fakes import PROMPTS, Brightness, Tone
from short_runs import fake_learner, quick
from tiny import save_tiny_reward, tiny_clip_reward
from torch import Tensor

from reneg.algorithm import denoise, one_step_x0
from reneg.cli import main
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning
from reneg.metrics import read_rows
from reneg.models import load_model
from reneg.models.base import LatentModel
from reneg.negative import NegativeEmbedding
from reneg.negatives import file_conditioning
from reneg.prediction import predict_x0
from reneg.randomness import draw_noise
from reneg.targets import NegativeEmbeddingTarget

Build = Callable[..., Any]
"""dtype -> the tiny pipeline."""
STEPS = 8


def noise_for(model: LatentModel, count: int) -> Tensor:
    return picture_noise(model, picture_generators(0, 0, count))


def like_a_learned_one(model: LatentModel, seed: int = 3) -> Conditioning:
    """Near no text's encoding, of one prompt; all tokens read."""
    generator = torch.Generator().manual_seed(seed)
    null = model.encode_negative_prompt([""])
    embeds, pooled = (
        None if t is None else torch.randn(t.shape, generator=generator, dtype=t.dtype)
        for t in (null.prompt_embeds, null.pooled_prompt_embeds)
    )
    assert embeds is not None
    return Conditioning(embeds, pooled, null.filled().prompt_attention_mask)


def positive_arguments(model: LatentModel, prompts: list[str]) -> dict[str, Any]:
    """The prompts as a pipeline takes them beside a negative embedding: those with masks refuse texts there."""
    positive = model.encode_prompt(prompts)
    if positive.prompt_attention_mask is None:
        return {"prompt": prompts}
    return {"prompt_embeds": positive.prompt_embeds, "prompt_attention_mask": positive.prompt_attention_mask}


def difference_from_the_pipeline(
    model: LatentModel, negative: Conditioning | None, *, guidance_scale: float, **call: Any
) -> float:
    """Largest difference of a picture made by `generate` from the pipeline's own; None for its own null, from texts.

    Args:
        call: further arguments of the pipeline.
    """
    pipe, prompts = model.pipe, PROMPTS[:3]
    noise = noise_for(model, 3)
    own = generate(
        model,
        prompts,
        negative or model.null_conditioning(),
        noise,
        guidance_scale=guidance_scale,
        num_inference_steps=STEPS,
    )
    given: dict[str, Any] = {"prompt": list(prompts)}
    if negative is not None:
        three = negative.expand(3)
        given = positive_arguments(model, prompts) | {"negative_prompt": None}
        given["negative_prompt_embeds"] = three.prompt_embeds
        if three.pooled_prompt_embeds is not None:
            given["negative_pooled_prompt_embeds"] = three.pooled_prompt_embeds
        if three.prompt_attention_mask is not None:
            given["negative_prompt_attention_mask"] = three.prompt_attention_mask
    options = {"guidance_scale": guidance_scale, "num_inference_steps": STEPS, "output_type": "pt", **call}
    reference = pipe(latents=noise, **given, **options).images
    assert float(reference.std()) > 0.02  # something to compare
    assert float(((reference > 0) & (reference < 1)).float().mean()) > 0.5  # and not clamped away
    return float((own - reference).abs().max())


def x0_round_trip(model: LatentModel) -> float:
    """x0 -> x_t by alpha and sigma -> x0: the largest error over a schedule; the model must be float64."""
    x0, noise = (picture_noise(model, picture_generators(seed, 0, 2)) for seed in (1, 2))
    errors = []
    for timestep in model.set_timesteps(10):
        alpha, sigma = model.alpha_sigma(timestep)
        output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "flow_prediction": noise - x0}
        recovered = predict_x0(
            alpha * x0 + sigma * noise, output[model.prediction_type], alpha, sigma, model.prediction_type
        )
        errors.append(float((recovered - x0).abs().max()))
    return max(errors)


def gradient_error(model: LatentModel, step_index: int) -> list[float]:
    """Relative errors of the gradient of each parameter against central differences, in float64.

    At some forty coordinates each, evenly spread.
    """
    reward, prompts = tiny_clip_reward(torch.float64), PROMPTS[:1]
    target = NegativeEmbeddingTarget(model)
    positive, negative = target.condition(model, prompts)
    timesteps = model.set_timesteps(STEPS)
    generators = picture_generators(0, 0, 1)
    latents = model.initial_latents(draw_noise(generators, model.latent_shape, model.dtype, model.device))
    latents = denoise(model, latents, timesteps[:step_index], positive, negative.detach(), 5.0, generators)

    def rewards_of(*state: Tensor) -> Tensor:
        count, mask = len(state[0]), target.null.prompt_attention_mask
        negative = Conditioning(*state) if mask is None else Conditioning(state[0], None, mask.expand(count, -1))
        x0, _ = one_step_x0(
            model,
            latents.expand(count, -1, -1, -1),
            timesteps[step_index],
            positive.expand(count),
            negative,
            5.0,
            target.policy,
        )
        return reward(model.decode(x0), prompts * count)

    parameters = target.parameters()
    gradients = torch.autograd.grad(rewards_of(*parameters).sum(), parameters)
    found = []
    with torch.no_grad():
        for which, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            chosen = torch.arange(0, parameter.numel(), max(1, parameter.numel() // 40))
            offsets = 1e-3 * torch.nn.functional.one_hot(chosen, parameter.numel()).to(parameter)
            ends = []
            for sign in (1, -1):
                moved = [p.expand(len(chosen), *p.shape[1:]).clone() for p in parameters]
                moved[which] += sign * offsets.view(-1, *parameter.shape[1:])
                ends.append(rewards_of(*moved))
            expected, got = (ends[0] - ends[1]) / 2e-3, gradient.flatten()[chosen]
            assert float(got.norm()) > 0
            found.append(float((got - expected).norm() / expected.norm()))
    return found


def learned_rewards(model: LatentModel, folder: Path, *, learning_rate: float) -> tuple[float, float]:
    """Brightness of the monitor's pictures before and after a short run of the real trainer on Brightness."""
    config = quick(
        folder,
        max_train_steps=6,
        train_batch_size=2,
        learning_rate=learning_rate,
        num_inference_steps=4,
        grad_step_range=(2, 3),
        guidance_scale=5.0,
        checkpointing_steps=6,
        validation_steps=6,
        num_validation_prompts=1,
    )
    fake_learner(config, model=model, reward=Brightness(), monitor=Tone(), prompts=PROMPTS).run()
    looks = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "validation"]
    return float(looks[0]["reward"]), float(looks[-1]["reward"])


def learn_by_command(build: Build, folder: Path, **call: Any) -> None:
    """`reneg learn --model FOLDER --reward FOLDER` on what `save_pretrained` wrote, then the file in use.

    Proven: the file holds an embedding, and where the family has one a pooled vector, that moved, and a mask that
    reads all; and the pictures of the loaded model, and of diffusers' own pipeline with `for_pipeline`, are those of
    the run's last state.

    Args:
        call: further arguments of the pipeline.
    """
    build().save_pretrained(folder / "model")
    save_tiny_reward(folder / "reward")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    arguments = {
        "model": folder / "model",
        "reward": folder / "reward",
        "monitor": "null",
        "prompts": folder / "prompts.txt",
        "output_dir": folder / "run",
        "max_train_steps": 2,
        "train_batch_size": 2,
        "learning_rate": 0.1,
        "num_inference_steps": 4,
        "grad_step_range": "[2,3]",
        "num_validation_prompts": 1,
        "guidance_scale": 5.0,
    }
    assert main(["learn", *(f"--{name}={value}" for name, value in arguments.items())]) == 0
    file = folder / "run" / "negative_embedding.safetensors"
    embedding, model = NegativeEmbedding.load(file), load_model(str(folder / "model"))
    assert isinstance(model, LatentModel)
    assert embedding.metadata["family"] == model.family
    assert embedding.metadata["scheduler"] == model.scheduler_name
    shown = ["--num_inference_steps", "4", "--output_dir", str(folder / "verified")]
    assert main(["verify", str(file), "--model", str(folder / "model"), *shown]) == 0
    null, learned = model.encode_negative_prompt([""]).filled(), embedding.conditioning()
    moved = [(null.prompt_embeds, learned.prompt_embeds), (null.pooled_prompt_embeds, learned.pooled_prompt_embeds)]
    for before, after in moved:
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert float((after - before).abs().amax(-1).min()) > 0.01  # every token
    assert (learned.prompt_attention_mask is None) == (null.prompt_attention_mask is None)
    assert learned.prompt_attention_mask is None or bool(learned.prompt_attention_mask.all())
    assert embedding.null_prompt_embeds is not None
    assert torch.equal(embedding.null_prompt_embeds, null.prompt_embeds)

    noise = noise_for(model, 2)
    options = {"guidance_scale": 5.0, "num_inference_steps": 4}
    own = generate(model, PROMPTS[:2], file_conditioning(embedding, model), noise, **options)
    pipe = build()
    pipe.scheduler = model.scheduler
    applied = embedding.for_pipeline(pipe, num_prompts=2, guidance_scale=5.0)
    prompts = positive_arguments(model, PROMPTS[:2])
    reference = pipe(latents=noise, output_type="pt", **prompts, **applied, **options, **call).images
    assert float((own - reference).abs().max()) < 1e-5
    without = generate(model, PROMPTS[:2], null, noise, **options)
    assert float((own - without).abs().max()) > 1e-3
