"""The Stable Diffusion adapter against diffusers' own pipeline and scheduler."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import MAX_TOKENS, WIDTH, tiny_model, tiny_pipeline

from reneg.interfaces import Conditioning
from reneg.models import MODELS, check_device, load_model
from reneg.models.sampling import SCHEDULERS
from reneg.models.sd import StableDiffusion
from reneg.prediction import predict_x0

PROMPTS = ["a cat", "a red house by the sea"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that predicts v, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline(prediction_type="v_prediction").save_pretrained(folder)
    return folder


def load(source: Path | str, **options: Any) -> StableDiffusion:
    model = load_model(str(source), **options)
    assert isinstance(model, StableDiffusion)
    return model


def draw(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_saved_folder_is_loaded_whole(saved: Path):
    model, pipe = load(saved), tiny_pipeline()
    assert (model.name, model.family, model.prediction_type) == (str(saved), "sd", "v_prediction")
    assert (model.latent_shape, model.max_tokens) == ((4, 8, 8), MAX_TOKENS)
    for own, reference in [
        (model.denoiser, pipe.unet),
        (model.vae, pipe.vae),
        (model.text_encoder, pipe.text_encoder),
    ]:
        state, wanted = own.state_dict(), reference.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in state)


def test_components_are_frozen_and_in_evaluation_mode(saved: Path):
    model = load(saved)
    for module in (model.denoiser, model.vae, model.text_encoder):
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_is_that_asked_for(saved: Path, dtype: torch.dtype):
    model = load(saved, dtype=dtype)
    assert model.dtype == dtype
    conditioning = model.encode_prompt(PROMPTS)
    assert conditioning.prompt_embeds.dtype == dtype
    wide = Conditioning(conditioning.prompt_embeds.float())  # a float32 parameter is cast where it is used
    output = model.predict(draw(0).to(dtype), model.set_timesteps(4)[1], wide)
    assert output.dtype == dtype


def test_encode_prompt_equals_the_pipelines():
    pipe = tiny_pipeline()
    own = StableDiffusion(pipe, name="tiny").encode_prompt([*PROMPTS, "", "b" * 40]).prompt_embeds
    reference, null = pipe.encode_prompt([*PROMPTS, "", "b" * 40], torch.device("cpu"), 1, True)
    assert own.shape == (4, MAX_TOKENS, WIDTH)
    assert null is not None
    assert torch.equal(own, reference)
    assert torch.equal(own[2], null[0])
    assert not own.requires_grad


def test_tokens_are_counted_before_truncation():
    model = tiny_model()
    assert model.count_tokens("") == 2
    assert model.count_tokens("a b c") == 5
    assert model.count_tokens("a " * 100) == 102


def test_decode_equals_the_pipelines_before_its_clamp():
    pipe = tiny_pipeline(torch.float64)
    latents = draw(1) * 4
    images = StableDiffusion(pipe, name="tiny").decode(latents)
    with torch.no_grad():
        raw: Any = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    torch.testing.assert_close(images.clamp(0, 1), pipe.image_processor.postprocess(raw, output_type="pt"))
    assert float(images.max()) > 1 or float(images.min()) < 0  # a clamp would show


def test_decode_lets_the_gradient_of_every_latent_through():
    latents = (draw(1) * 4).requires_grad_()
    tiny_model(torch.float64).decode(latents).sum().backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all() and (latents.grad != 0).all()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_x0_round_trip_through_the_models_own_schedule(scheduler: str, prediction_type: Any):
    """x0 -> x_t by alpha and sigma -> x0, and alpha and sigma are those of the scheduler's add_noise."""
    pipe = tiny_pipeline(torch.float64, prediction_type=prediction_type)
    model = StableDiffusion(pipe, name="tiny", scheduler=scheduler)
    x0, noise = draw(2), draw(3)
    for timestep in model.set_timesteps(10):
        alpha, sigma = model.alpha_sigma(timestep)
        latents = alpha * x0 + sigma * noise
        torch.testing.assert_close(latents, model.scheduler.add_noise(x0, noise, timestep[None]))
        output = noise if prediction_type == "epsilon" else alpha * noise - sigma * x0
        recovered = predict_x0(latents, output, alpha, sigma, prediction_type)
        torch.testing.assert_close(recovered, x0, rtol=0, atol=1e-10)


def test_timesteps_go_from_noise_to_image_and_all_can_be_asked_for():
    model = tiny_model()
    timesteps = model.set_timesteps(30).tolist()
    assert len(timesteps) == 30 and timesteps == sorted(timesteps, reverse=True)
    sigmas = [float(model.alpha_sigma(torch.tensor(timestep))[1]) for timestep in timesteps]
    assert sigmas[0] > 0.99 and sigmas[-1] < 0.1


def test_ddim_draws_nothing_and_ddpm_from_each_samples_own_generator():
    latents, output = draw(4), draw(5)

    def step(name: str, seeds: list[int], part: slice = slice(None)) -> torch.Tensor:
        model = tiny_model(torch.float64, scheduler=name)
        timestep = model.set_timesteps(10)[3]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return model.step(output[part], timestep, latents[part], generators)

    assert torch.equal(step("ddim", [0, 1]), step("ddim", [2, 3]))
    both = step("ddpm", [0, 1])
    assert not torch.allclose(both, step("ddpm", [2, 3]))
    torch.testing.assert_close(step("ddpm", [1], slice(1, 2)), both[1:])


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="--model 'sd9' is unknown; choose from") as error:
        load_model("sd9")
    assert all(name in str(error.value) for name in MODELS)
    with pytest.raises(ValueError, match="--scheduler 'euler' is unknown; choose from ddim, ddpm"):
        load_model("world", scheduler="euler")


def test_an_unknown_device_is_refused_in_one_line():
    check_device("cpu")
    with pytest.raises(ValueError, match="--device 'gpu' cannot be used here") as error:
        load_model("world", device="gpu")
    assert "\n" not in str(error.value)


def edit(path: Path, **changes: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_a_weight(path: Path) -> None:
    """transformers would fill it with random numbers."""
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path, metadata={"format": "pt"})


def only_a_pickle(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def drop_tokenizer(folder: Path) -> None:
    for path in (folder / "tokenizer").iterdir():
        path.unlink()


UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
BAD = {
    "truncated denoiser": (lambda folder: (folder / UNET).write_bytes(b"x" * 99), "Unable to load weights"),
    "incomplete denoiser": (lambda folder: drop_a_weight(folder / UNET), "cannot be loaded"),
    "truncated text encoder": (lambda folder: (folder / TEXT).write_bytes(b"x" * 99), "cannot be loaded"),
    "incomplete text encoder": (lambda folder: drop_a_weight(folder / TEXT), "text_encoder lacks 1 of its weights"),
    "only a pickle": (only_a_pickle, "no file named"),
    "no tokenizer": (drop_tokenizer, "there is no tokenizer"),
    "broken index": (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be loaded"),
    "predicts x0": (
        lambda folder: edit(folder / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "predicts 'sample'; epsilon and v_prediction are supported",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_are_refused_in_one_line(tmp_path: Path, kind: str):
    tiny_pipeline().save_pretrained(tmp_path)
    spoil, message = BAD[kind]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be loaded as a diffusers pipeline"):
        load_model(str(tmp_path))
