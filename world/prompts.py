"""Stage `prompts`: learning and evaluation prompts, disjoint in combinations, the hand-written negative prompt, and
captions of the kind that the generator was trained on, with their vocabulary."""

import json
from pathlib import Path

import numpy as np

from .data import (
    BAD_WORDS,
    COLOURS,
    DAMAGES,
    POSITIONS,
    SIZES,
    STYLES,
    SUBJECT_NAMES,
    Scene,
    describe,
    is_held_out,
    training_caption,
)
from .training import PACKAGE

HANDCRAFTED = "blurry, noisy, pixelated, compressed, dull, discoloured, distorted, low quality, bad, ugly"
"""N*: the faults of the world's pictures in its own vocabulary, one word for each, and the general words of blame."""


def evaluation_scenes() -> dict[str, list[Scene]]:
    """Style -> every held-out combination once, with a size and position that vary."""
    rng = np.random.default_rng(21)
    groups = {}
    for style in STYLES:
        scenes = [Scene(name, style, colour) for name in SUBJECT_NAMES for colour in COLOURS]
        groups[style] = [_vary(scene, rng) for scene in scenes if is_held_out(scene)]
    return groups


def learning_scenes(count: int = 1200) -> list[Scene]:
    rng = np.random.default_rng(22)
    scenes = [Scene(n, s, c) for n in SUBJECT_NAMES for s in STYLES for c in COLOURS]
    allowed = [scene for scene in scenes if not is_held_out(scene)]
    return [_vary(allowed[i], rng) for i in rng.permutation(len(allowed))[:count]]


def _vary(scene: Scene, rng: np.random.Generator) -> Scene:
    size = str(rng.choice(["large", "medium", "small"], p=[0.6, 0.24, 0.16]))
    position = str(rng.choice(list(POSITIONS)[1:])) if size != "large" and rng.random() < 0.5 else "centre"
    return Scene(scene.subject, scene.style, scene.colour, size, position)


def captions(count: int = 2000) -> list[str]:
    """Different captions of the training distribution."""
    rng = np.random.default_rng(23)
    found: dict[str, None] = {}
    while len(found) < count:
        found[training_caption(rng)] = None
    return list(found)


def vocabulary() -> dict[str, list[str]]:
    """What a word tells -> the words that tell it; those of one kind exclude each other, but for the faults."""
    return {
        "style": list(STYLES),
        "size": [size for size in SIZES if size != "medium"],
        "subject": SUBJECT_NAMES,
        "place": list(POSITIONS)[1:],
        "colour": list(COLOURS),
        "fault": [word for words in DAMAGES.values() for word in words] + BAD_WORDS,
    }


def write(folder: Path = PACKAGE) -> None:
    """Write prompts.json and captions.json."""
    prompts = {
        "learn": [describe(scene) for scene in learning_scenes()],
        "evaluate": {style: [describe(scene) for scene in scenes] for style, scenes in evaluation_scenes().items()},
        "handcrafted_negative_prompt": HANDCRAFTED,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("prompts", prompts),
        ("captions", {"captions": captions(), "vocabulary": vocabulary()}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=0) + "\n")
