"""The bundled world as it ships: whole, loadable without this package, and fit to learn on."""

import hashlib
import json
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageFilter
from transformers import CLIPModel, CLIPVisionModelWithProjection

from reneg.algorithm import StepSettings, training_steps
from reneg.config import preset
from reneg.evaluation.comparison import load_real_pictures
from reneg.generation import generate, picture_generators, picture_noise
from reneg.models import load_model
from reneg.models.sd import StableDiffusion
from reneg.negatives import handcrafted_negative_prompt
from reneg.randomness import Streams
from reneg.report import to_images
from reneg.rewards import REWARDS, load_reward
from reneg.targets import NegativeEmbeddingTarget
from reneg.world import DENOISERS, WEIGHTS, load_captions, load_prompts

MANIFEST = WEIGHTS / "manifest.json"

LIMIT_BYTES, SIBLINGS_LIMIT_BYTES = 48 * 2**20, 32 * 2**20
PROMPT = re.compile(
    r"(?P<style>\w+) drawing of (?:an? )?(?:(?:large|small) )?(?P<subject>.+?)"
    r"(?: at the (?:left|right|top|bottom))? on a (?P<colour>\w+) background"
)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    model = load_model("world")
    assert isinstance(model, StableDiffusion)
    return model


def combination(prompt: str) -> tuple[str, str, str]:
    match = PROMPT.fullmatch(prompt)
    assert match, prompt
    return match["subject"], match["style"], match["colour"]


# Files


def test_every_file_is_the_manifests():
    manifest = json.loads(MANIFEST.read_text())
    assert manifest["recipe_version"] and manifest["licence"]
    files = {path.relative_to(WEIGHTS).as_posix(): path for path in WEIGHTS.rglob("*") if path.is_file()}
    files.pop("manifest.json")
    assert files.keys() == manifest["sha256"].keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"][name], name
    siblings = sum(path.stat().st_size for name, path in files.items() if name.split("/")[0] in DENOISERS)
    total = sum(path.stat().st_size for path in files.values())
    assert total == manifest["bytes"]
    assert 0 < siblings <= SIBLINGS_LIMIT_BYTES and total - siblings <= LIMIT_BYTES


def test_no_file_is_a_pickle():
    assert {path.suffix for path in WEIGHTS.rglob("*") if path.is_file()} == {".safetensors", ".json"}


# Without this package


def test_diffusers_own_pipeline_samples_the_same_picture(model: StableDiffusion):
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "generator", use_safetensors=True)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    pipe.set_progress_bar_config(disable=True)
    prompts, negative = load_prompts().learn[:1], load_prompts().handcrafted_negative_prompt
    noise = picture_noise(model, picture_generators(0, 0, 1))
    own = generate(model, prompts, model.encode_prompt([negative]), noise, num_inference_steps=10)
    options: dict[str, Any] = {"latents": noise, "num_inference_steps": 10, "output_type": "pt"}
    output: Any = pipe(prompts, negative_prompt=[negative], guidance_scale=7.5, **options)
    assert own.shape == (1, 3, 64, 64)
    assert float(own.std()) > 0.02
    torch.testing.assert_close(own, output.images, rtol=0, atol=1e-4)


def test_transformers_own_classes_load_every_weight_of_the_rewards():
    classes = {"clip": CLIPModel, "vision": CLIPVisionModelWithProjection}
    sources = [source for name, source in REWARDS.items() if name.startswith("world/")]
    assert len(sources) == 4
    for source in sources:
        loaded, info = classes[source.kind].from_pretrained(source.location, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert all(parameter.isfinite().all() for parameter in loaded.parameters())


def test_the_rewards_and_the_generators_text_encoder_are_different_models(model: StableDiffusion):
    towers = [model.text_encoder.state_dict()]
    towers += [
        CLIPModel.from_pretrained(WEIGHTS / name).text_model.state_dict()
        for name in ("preference", "monitor", "judge")
    ]
    for one, other in combinations(towers, 2):
        name = next(name for name in one if name.endswith("token_embedding.weight"))
        twin = next(key for key in other if key.endswith("token_embedding.weight"))
        assert one[name].shape != other[twin].shape or not torch.allclose(one[name].float(), other[twin].float())


# Siblings


@pytest.mark.parametrize(("name", "prediction_type"), [("world-small", "epsilon"), ("world-v", "v_prediction")])
def test_siblings_are_other_denoisers_behind_the_same_text_encoder(
    model: StableDiffusion, name: str, prediction_type: str
):
    """The package's sampler and diffusers' own, with a pipeline put together by hand, make the same picture."""
    sibling, folder = load_model(name), DENOISERS[name]
    assert folder is not None and sibling.prediction_type == prediction_type
    assert handcrafted_negative_prompt(sibling) == load_prompts().handcrafted_negative_prompt
    assert preset(name) == preset("world")
    for part in ("text_encoder", "vae"):
        ours, theirs = sibling.pipe.components[part].state_dict(), model.pipe.components[part].state_dict()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    pipe = StableDiffusionPipeline.from_pretrained(
        WEIGHTS / "generator",
        unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet", use_safetensors=True),
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        use_safetensors=True,
    )
    pipe.set_progress_bar_config(disable=True)
    prompts, noise = load_prompts().learn[:1], picture_noise(sibling, picture_generators(0, 0, 1))
    own = generate(sibling, prompts, sibling.encode_prompt([""]), noise, num_inference_steps=5)
    options: dict[str, Any] = {"latents": noise, "num_inference_steps": 5, "output_type": "pt"}
    output: Any = pipe(prompts, negative_prompt=[""], guidance_scale=7.5, **options)
    torch.testing.assert_close(own, output.images, rtol=0, atol=1e-4)
    plain = generate(model, prompts, model.encode_prompt([""]), noise, num_inference_steps=5)
    assert float((own - plain).abs().mean()) > 0.01  # another denoiser, not the same under another name


# Prompts


def test_there_are_enough_prompts_in_three_groups():
    prompts = load_prompts()
    assert len(set(prompts.learn)) == len(prompts.learn) >= 1000
    assert len(prompts.evaluate) == 3
    evaluation = [prompt for group in prompts.evaluate.values() for prompt in group]
    assert len(set(evaluation)) == len(evaluation) >= 400
    for style, group in prompts.evaluate.items():
        assert len(group) >= 100
        assert {combination(prompt)[1] for prompt in group} == {style}


def test_learning_and_evaluation_share_no_subject_style_and_colour():
    prompts = load_prompts()
    learning = {combination(prompt) for prompt in prompts.learn}
    evaluation = {combination(prompt) for group in prompts.evaluate.values() for prompt in group}
    assert not learning & evaluation
    for part in zip(*learning, strict=True), zip(*evaluation, strict=True):
        subjects, styles, colours = (set(values) for values in part)
        assert len(subjects) >= 80 and len(styles) == 3 and len(colours) >= 6  # each is known on its own


def test_captions_are_of_training_pictures_and_their_vocabulary_is_in_them():
    captions, vocabulary = load_captions().captions, load_captions().vocabulary
    assert len(set(captions)) == len(captions) == 2000
    evaluation = {prompt for group in load_prompts().evaluate.values() for prompt in group}
    assert not evaluation & set(captions)
    assert sum(caption.split(", ")[0] in vocabulary["fault"] for caption in captions) >= 40  # quality words alone
    assert sum(any(fault in caption for fault in vocabulary["fault"]) for caption in captions) >= 300
    told = " | ".join(captions)
    for kind, words in vocabulary.items():
        assert len(set(words)) == len(words)
        assert [word for word in words if word not in told] == [], kind
    prompts = [combination(prompt) for group in load_prompts().evaluate.values() for prompt in group]
    assert {style for _, style, _ in prompts} <= set(vocabulary["style"])
    assert {subject for subject, _, _ in prompts} <= set(vocabulary["subject"])
    assert {colour for _, _, colour in prompts} <= set(vocabulary["colour"])


def test_every_text_is_within_the_limit_and_its_words_are_known(model: StableDiffusion):
    prompts = load_prompts()
    texts = [*prompts.learn, *(prompt for group in prompts.evaluate.values() for prompt in group)]
    texts += [*load_captions().captions, *(word for words in load_captions().vocabulary.values() for word in words)]
    unknown = model.tokenizer.convert_tokens_to_ids("ß")  # a letter that no prompt has
    for text in [*texts, prompts.handcrafted_negative_prompt]:
        assert model.count_tokens(text) <= model.max_tokens, text
        ids = model.tokenizer(text).input_ids
        assert unknown not in ids[1:-1], text
        assert model.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


# Learning and judging


def test_a_learning_step_has_a_finite_gradient_in_every_token(model: StableDiffusion):
    target, streams = NegativeEmbeddingTarget(model), Streams(0, 0, [0, 1])
    reward = load_reward("world/preference")
    settings = StepSettings(7.5, num_inference_steps=4, grad_step_range=(2, 3))
    output = next(training_steps(model, target, reward, load_prompts().learn[:2], streams, settings))
    output.loss.backward()
    gradient = target.negative_prompt_embeds.grad
    assert gradient is not None and gradient.isfinite().all()
    assert (gradient.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("name", [name for name in REWARDS if name.startswith("world/")])
def test_rewards_prefer_clean_real_pictures_to_blurred_ones(name: str):
    real = load_real_pictures()
    assert real is not None
    images, prompts = to_images(real.pictures.numpy()), real.prompts
    assert images.shape == (len(prompts), 3, 64, 64) and len(prompts) >= 100
    copies = [Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)) for pixels in real.pictures.numpy()]
    blurred = to_images(np.stack([np.asarray(copy) for copy in copies]))
    reward = load_reward(name)
    with torch.no_grad():
        assert float((reward(images, prompts) > reward(blurred, prompts)).float().mean()) > 0.9


@pytest.mark.parametrize("name", ["world/preference", "world/monitor", "world/judge"])
def test_text_rewards_prefer_the_true_prompt(name: str):
    """To one of another subject."""
    real = load_real_pictures()
    assert real is not None
    images, prompts = to_images(real.pictures.numpy()), real.prompts
    others = prompts[len(prompts) // 7 :] + prompts[: len(prompts) // 7]
    assert all(combination(a)[0] != combination(b)[0] for a, b in zip(prompts, others, strict=True))
    reward = load_reward(name)
    with torch.no_grad():
        assert float((reward(images, prompts) > reward(images, others)).float().mean()) > 0.85


def test_real_pictures_are_of_evaluation_prompts():
    real, evaluation = load_real_pictures(), load_prompts().evaluate
    assert real is not None
    assert set(real.prompts) <= {prompt for group in evaluation.values() for prompt in group}
    assert len({combination(prompt)[1] for prompt in real.prompts}) == len(evaluation)
