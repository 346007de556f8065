"""CLIP-type rewards: equality with transformers' own CLIPModel."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import MAX_TOKENS, save_tiny_reward, tiny_clip_reward

from reneg.rewards import REWARDS, load_reward
from reneg.rewards.clip import ClipReward

PROMPTS = ["a cat", "a red house", ""]


@pytest.fixture(scope="module")
def reward() -> ClipReward:
    return tiny_clip_reward(torch.float64)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_equal_to_transformers_logits_per_image(reward: ClipReward, images: torch.Tensor):
    """On the same pixels, and on each prompt's tokens alone: the padding changes nothing."""
    scores = reward(images, PROMPTS)
    pixels = reward.preprocess(images)
    with torch.no_grad():
        for i, prompt in enumerate(PROMPTS):
            tokens = reward.tokenizer(prompt, return_tensors="pt")
            logits = reward.model(pixel_values=pixels, **tokens).logits_per_image
            torch.testing.assert_close(scores[i], logits[i, 0], rtol=0, atol=1e-8)


def test_longer_prompts_are_cut_off_with_one_warning(images: torch.Tensor):
    reward = tiny_clip_reward(torch.float64)
    long = "b " * (MAX_TOKENS - 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(images[:1], [long])  # exactly as long as the context
    with pytest.warns(UserWarning, match=f"reads the first {MAX_TOKENS} tokens"):
        cut = reward(images[:1], [long + "c d"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = reward(images[:1], [long + "e f"])  # it has been said
    assert torch.equal(cut, again)


def test_a_saved_folder_gives_the_same_reward(tmp_path: Path, images: torch.Tensor):
    loaded = load_reward(str(save_tiny_reward(tmp_path / "reward", seed=4)))
    assert loaded.name == str(tmp_path / "reward")
    assert isinstance(loaded, ClipReward)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    pixels = images.float()
    torch.testing.assert_close(loaded(pixels, PROMPTS), tiny_clip_reward(seed=4)(pixels, PROMPTS))
    assert not torch.allclose(loaded(pixels, PROMPTS), tiny_clip_reward(seed=5)(pixels, PROMPTS), atol=1e-3)


def test_half_precision_is_close(tmp_path: Path, images: torch.Tensor):
    folder = save_tiny_reward(tmp_path / "reward")
    half = load_reward(str(folder), dtype=torch.bfloat16)(images.float(), PROMPTS)
    assert half.dtype == torch.float32  # cosines of 8 bits would hardly differ
    torch.testing.assert_close(half, load_reward(str(folder))(images.float(), PROMPTS), rtol=0.05, atol=0.2)


def test_the_gradient_in_half_precision_points_the_same_way(images: torch.Tensor):
    """On the world's own reward, which is trained."""
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        pixels = images.float().requires_grad_()
        load_reward("world/preference", dtype=dtype)(pixels, PROMPTS).sum().backward()
        assert pixels.grad is not None
        gradients.append(pixels.grad.flatten(1))
    likeness = torch.nn.functional.cosine_similarity(*gradients)
    print(f"\ncosine of bfloat16's and float32's gradient: {likeness.tolist()}")  # noqa: T201 (measured, shown with -s)
    assert bool((likeness > 0.99).all())


@pytest.mark.parametrize("reward", ["world/aesthetic", "aesthetic", "imagereward", "my_module:score", "scorer.toml"])
def test_only_clip_models_are_taken_in_half_precision(reward: str):
    with pytest.raises(ValueError, match="--reward_dtype bf16: goes with CLIP models"):
        load_reward(reward, dtype=torch.bfloat16)


def drop_weights(folder: Path) -> None:
    """transformers would fill them with random ones."""
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "visual" not in k}, folder / "model.safetensors", {"format": "pt"})


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


BAD = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded as a CLIPModel"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
        "cannot be loaded as a CLIPModel",
    ),
    "incomplete": (drop_weights, "lacks 1 of its weights"),
    "only a pickle": (only_a_pickle, "cannot be loaded as a CLIPModel"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded as a CLIPModel"),
    "no tokenizer": (drop_tokenizer, "has no tokenizer"),
    "no preprocessing": (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_are_refused_in_one_line(tmp_path: Path, kind: str):
    folder = save_tiny_reward(tmp_path / "reward")
    spoil, message = BAD[kind]
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        load_reward(str(folder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="reward 'beauty' is unknown; choose from") as error:
        load_reward("beauty")
    for name in REWARDS:
        assert name in str(error.value)
