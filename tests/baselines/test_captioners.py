"""Captioners: the nearest of known captions, and a BLIP built in code, saved, and read back as a published one is."""

# transformers' annotations contradict its code.
# pyright: reportArgumentType=false, reportCallIssue=false

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_clip_reward
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
)

from reneg.baselines.captioners import BLIP, BlipCaptioner, NearestCaption, captioner_name, load_captioner
from reneg.evaluation.comparison import load_real_pictures
from reneg.report import to_images

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]


def pictures(count: int, size: int) -> torch.Tensor:
    pixels = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(0))
    return pixels.float() / 255


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of the published captioning models."""
    folder = tmp_path_factory.mktemp("blip")
    sizes: Any = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = BlipTextConfig(
        **sizes,
        vocab_size=len(WORDS),
        encoder_hidden_size=32,
        max_position_embeddings=64,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_id=3,
        sep_token_id=3,
        initializer_range=0.5,  # large, so that pictures differ in their words
    )
    vision = BlipVisionConfig(**sizes, image_size=24, patch_size=8, initializer_range=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BlipForConditionalGeneration(BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    model.save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def test_blips_captions_are_those_of_transformers_own_processor(blip: Path):
    images = pictures(3, 40)
    captions = load_captioner(str(blip), device="cpu")(images)
    processor: Any = BlipProcessor(BlipImageProcessorPil.from_pretrained(blip), BertTokenizer.from_pretrained(blip))
    model: Any = BlipForConditionalGeneration.from_pretrained(blip).eval()
    files = [Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()) for image in images]
    inputs = processor(images=files, return_tensors="pt")
    ids = model.generate(pixel_values=inputs["pixel_values"], max_new_tokens=30, num_beams=1, do_sample=False)
    assert captions == [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    assert all(captions) and len(set(captions)) > 1


def test_a_caption_does_not_depend_on_its_batch_mates(blip: Path):
    captioner, images = load_captioner(str(blip), device="cpu"), pictures(3, 24)
    assert isinstance(captioner, BlipCaptioner)
    assert captioner(images) == [caption for image in images for caption in captioner(image[None])]


@pytest.mark.parametrize("damage", ["empty", "no tokenizer", "no weight"])
def test_what_is_no_whole_captioner_is_refused_in_one_line(damage: str, blip: Path, tmp_path: Path):
    if damage != "empty":
        for file in blip.iterdir():
            if damage == "no weight" or not file.name.startswith(("tokenizer", "vocab")):
                (tmp_path / file.name).write_bytes(file.read_bytes())
    if damage == "no weight":
        state = load_file(tmp_path / "model.safetensors")
        state.pop(next(name for name in state if "vision" in name))
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="^--captioner ") as refusal:
        load_captioner(str(tmp_path), device="cpu")
    assert "\n" not in str(refusal.value)


def test_the_nearest_caption_is_the_one_of_the_highest_cosine():
    clip, captions = tiny_clip_reward(), ["a", "b c", "d", "e f g", "h"]
    images = pictures(4, 16)
    found = NearestCaption(clip, captions, batch_size=2)(images)
    for image, caption in zip(images, found, strict=True):
        scores = clip(image.expand(5, -1, -1, -1), captions)
        assert captions[int(scores.argmax())] == caption


def test_the_worlds_captioner_names_what_real_pictures_show():
    real = load_real_pictures()
    assert real is not None
    chosen = np.arange(0, 156, 13)
    captions = load_captioner("nearest", device="cpu")(to_images(real.pictures[chosen].numpy()))
    colours = [real.prompts[number].split(" on a ")[1].split()[0] for number in chosen]
    assert sum(colour in caption.split() for colour, caption in zip(colours, captions, strict=True)) >= 9


def test_each_model_has_a_captioner_by_default():
    assert captioner_name(None, "world") == "nearest"
    assert captioner_name(None, "sd1.5") == BLIP
    assert captioner_name("mine", "world") == "mine"
