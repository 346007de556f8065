"""Stage `prompts`: learning and evaluation prompts, disjoint in combinations, and the hand-written negative prompt."""

import json
from pathlib import Path

import numpy as np

from .data import COLOURS, POSITIONS, STYLES, SUBJECT_NAMES, Scene, describe, is_held_out
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


def write(path: Path = PACKAGE / "prompts.json") -> None:
    prompts = {
        "learn": [describe(scene) for scene in learning_scenes()],
        "evaluate": {style: [describe(scene) for scene in scenes] for style, scenes in evaluation_scenes().items()},
        "handcrafted_negative_prompt": HANDCRAFTED,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(prompts, indent=0) + "\n")
