"""Images on their way into a scorer: PIL's resize, the file's mean and deviation, and no clamp."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reneg.rewards.preprocess import ImagePreprocess

PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def picture(side: int) -> np.ndarray:
    """Smooth colours with hard edges and noise on them, 8 bit; no overshoot that PIL would clip between its passes."""
    rng = np.random.default_rng(0)
    wave = 127 + 80 * np.sin(np.linspace(0, 9, side))
    pixels = np.stack(
        [np.add.outer(wave, wave) / 2, np.add.outer(wave, -wave) / 2 + 127, np.full((side, side), 60)], -1
    )
    pixels[side // 4 : side // 2, side // 3 :] = (190, 60, 128)
    return (pixels + rng.uniform(-8, 8, pixels.shape)).astype(np.uint8)


@pytest.mark.parametrize(("side", "size"), [(64, 24), (64, 40), (30, 64)], ids=["down", "a little down", "up"])
def test_resize_is_pils_bicubic_within_two_grey_levels(side: int, size: int):
    pixels = picture(side)
    reference = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC), dtype=float)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    own = ImagePreprocess(size, *PLAIN)(images)[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert own.shape == (size, size, 3)
    assert np.abs(own - reference).max() <= 2
    nearest = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST), dtype=float)
    assert np.abs(own - nearest).max() > 6  # there is something to get wrong


def test_the_right_size_is_not_touched():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ImagePreprocess(8, *PLAIN)(images), images)


def test_normalises_each_channel():
    images = torch.full((1, 3, 2, 2), 0.5)
    output = ImagePreprocess(2, (0.1, 0.5, 0.9), (0.1, 0.2, 0.4))(images)
    torch.testing.assert_close(output[0, :, 0, 0], torch.tensor([4.0, 0.0, -1.0]))


@pytest.mark.parametrize("size", [4, 8])
def test_pixels_out_of_range_keep_their_gradient(size: int):
    images = torch.linspace(-2, 3, 3 * 64).view(1, 3, 8, 8).requires_grad_()
    ImagePreprocess(size, *PLAIN)(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad.min()) > 0


def test_reads_the_folders_mean_and_deviation(tmp_path: Path):
    config = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"shortest_edge": 224}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert ImagePreprocess.from_pretrained(tmp_path / "preprocessor_config.json", 8) == ImagePreprocess(
        8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    )


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"image_mean": [1, 1, 1]}', '{"image_mean": [1, 1], "image_std": [1, 1]}', '{"image_mean": 1}'],
    ids=["missing", "broken", "list", "half", "two channels", "number"],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match="holds no readable preprocessor_config.json") as error:
        ImagePreprocess.from_pretrained(tmp_path / "preprocessor_config.json", 8)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
