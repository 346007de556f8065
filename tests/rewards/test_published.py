"""The published path against the originals' own steps, and how far the differentiable path is from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scorers import photographs, pictures
from transformers import CLIPImageProcessor

from reneg.report import to_images, to_uint8
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

SIDE = 224


def uint8(side: int = 96, *, height: int | None = None) -> np.ndarray:
    images = pictures(1, side)[..., : height or side, :]
    return to_uint8(images)[0].numpy()


@pytest.mark.parametrize("height", [96, 64], ids=["square", "landscape"])
@pytest.mark.parametrize("size", [24, 100])
def test_pil_path_is_transformers_processor(height: int, size: int, prove):
    """What PickScore's authors run; the crop's remainder is even here, where torchvision and transformers agree."""
    pixels = uint8(height=height)
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
    reference = processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
    own = ImagePreprocess(size, CLIP_MEAN, CLIP_STD, published="pil")(to_images(pixels[None]))
    difference = float((own - reference).abs().max())
    assert difference < 1e-6
    prove("pickscore (and any CLIPModel folder)", "published path: pixels", "CLIPImageProcessor (PIL)", difference)


@pytest.mark.parametrize(("height", "width", "expected"), [(30, 20, (12, 8)), (20, 33, (8, 13)), (8, 8, (8, 8))])
def test_shortest_edge(height: int, width: int, expected: tuple[int, int]):
    preprocess = ImagePreprocess(8, CLIP_MEAN, CLIP_STD)
    assert preprocess.resized(height, width) == expected
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert preprocess(images).shape == (1, 3, 8, 8)


def test_a_crop_takes_the_middle():
    images = torch.zeros(1, 3, 8, 16)
    images[..., 4:12] = 1
    for published in (None, "pil"):
        output = ImagePreprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), published=published)(images)
        assert torch.equal(output, torch.ones(1, 3, 8, 8))


def test_how_far_the_differentiable_path_is_from_pil_on_real_pictures(shared_data: Path, prove):
    images = photographs(shared_data)
    own, pil = (
        ImagePreprocess(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), published=published)(images)
        for published in (None, "pil")
    )
    difference = (own - pil).abs()
    assert float(difference.mean()) < 2e-3 and float(difference.max()) < 0.04  # facts: 1.1e-3 and 0.0325
    clamped = float((own.clamp(0, 1) - pil).abs().max())
    assert clamped < 0.009
    what = "differentiable path against the published one (PIL), pixels in [0, 1]"
    prove("every scorer but hpsv2.*", what + ", mean", "five real 512x512 pictures", float(difference.mean()))
    prove("every scorer but hpsv2.*", what + ", largest", "five real 512x512 pictures", float(difference.max()))
    prove("every scorer but hpsv2.*", what + ", largest after a clamp", "five real 512x512 pictures", clamped)
