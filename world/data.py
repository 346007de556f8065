"""Pictures and captions of the bundled world: emoji drawings in scenes, and what is wrong with some of them.

A scene is (subject, style, colour, size, position) and a list of damages. Everything random about a scene comes
from the generator that is passed in, so a data set is fixed by its seed.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZE = 64
"""Height and width of every picture, in pixels."""

WORK = Path(os.environ.get("RENEG_WORLD_WORK", Path(__file__).parent / "work"))
"""Downloads, training state and logs of the recipe; never committed."""

PACKAGES = {
    "noto": ("emoji-datasource-google@16.0.0", "package/img/google/64/", ".png"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/", ".png"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/", ".webp"),
}
"""Style -> npm package, folder of its pictures, their suffix."""
WORDS_PACKAGE = ("emojibase-data@17.0.0", "package/en/data.json")

SUBJECTS = """
dog face;cat face;panda;fox;lion;frog;monkey face;pig face;cow face;koala;penguin;owl;duck;whale;fish;octopus;crab;
turtle;snail;butterfly;lady beetle;honeybee;spider;elephant;unicorn;mouse face;polar bear;chicken;
red apple;banana;watermelon;strawberry;grapes;lemon;pineapple;cherries;carrot;avocado;mushroom;hamburger;pizza;
doughnut;ice cream;birthday cake;egg;hot beverage;french fries;
rose;sunflower;cactus;evergreen tree;palm tree;four leaf clover;fire;snowman;rainbow;star;crescent moon;
house;castle;rocket;automobile;bus;bicycle;airplane;sailboat;locomotive;
red heart;skull;ghost;robot;alien;jack-o-lantern;balloon;wrapped gift;trophy;soccer ball;
umbrella;key;light bulb;guitar;camera;alarm clock;crown;t-shirt;top hat;bomb;pencil
"""
SUBJECT_NAMES = [name for line in SUBJECTS.strip().splitlines() for name in line.strip(";").split(";")]

PLURALS = {"cherries", "grapes", "french fries"}

STYLES = {
    "noto": ["noto", "noto emoji"],
    "twemoji": ["twemoji", "flat twemoji"],
    "fluent": ["fluent", "fluent 3d"],
}
COLOURS = {
    "white": (255, 255, 255),
    "grey": (150, 150, 155),
    "black": (24, 24, 28),
    "red": (205, 60, 55),
    "yellow": (248, 205, 70),
    "green": (70, 165, 90),
    "blue": (70, 125, 215),
    "purple": (145, 90, 190),
}
SIZES = {"large": 58, "medium": 48, "small": 38}
"""Size -> longer side of the drawing in pixels; fixed, since every pixel of jitter is one more shape to learn."""
POSITIONS = {"centre": (0.5, 0.5), "left": (0.0, 0.5), "right": (1.0, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0)}
"""Position -> share of the free room that lies left of and above the drawing."""

DAMAGES = {
    "blur": ["blurry", "blurred", "out of focus"],
    "noise": ["noisy", "grainy"],
    "pixels": ["pixelated", "low resolution"],
    "jpeg": ["compressed", "jpeg artifacts"],
    "dull": ["dull", "faded", "low contrast"],
    "dark": ["too dark", "underexposed"],
    "hue": ["discoloured", "wrong colours"],
    "warp": ["distorted", "deformed"],
}
BAD_WORDS = ["low quality", "bad", "ugly"]
GOOD_WORDS = ["sharp", "clear", "high quality", "crisp"]
DAMAGED_SHARE = 0.42

HELD_OUT_SHARE = 0.22
"""Share of (subject, style, colour) combinations that no training of any model sees."""


@dataclass(frozen=True)
class Scene:
    """What a picture shows, before any damage. A colour such as "red and blue" is a background of two halves."""

    subject: str
    style: str
    colour: str
    size: str = "large"
    position: str = "centre"

    @property
    def combinations(self) -> list[str]:
        return [f"{self.subject}/{self.style}/{colour}" for colour in self.colour.split(" and ")]


def fraction(text: str) -> float:
    """A fixed number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def is_held_out(scene: Scene) -> bool:
    return any(fraction("held out: " + combination) < HELD_OUT_SHARE for combination in scene.combinations)


def in_split(scene: Scene, split: int) -> bool:
    """Whether a training combination belongs to a reward's data split: each leaves out its own fifth."""
    fifths = {int(fraction("split: " + combination) * 5) for combination in scene.combinations}
    return not is_held_out(scene) and split not in fifths


def _package(name: str) -> Path:
    """The tarball of an npm package, fetched once."""
    WORK.mkdir(parents=True, exist_ok=True)
    target = WORK / (name.strip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            done = subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True)
            os.replace(Path(folder) / done.stdout.decode().split()[-1], target)
    return target


def _code(name: str) -> str:
    """A code point sequence without variation selectors: the three families write them differently."""
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


@lru_cache
def words() -> dict[str, tuple[str, list[str]]]:
    """Subject -> (code points, keywords that no other subject of the world has)."""
    with tarfile.open(_package(WORDS_PACKAGE[0])) as archive:
        member = archive.extractfile(WORDS_PACKAGE[1])
        assert member is not None
        entries = {entry["label"]: entry for entry in json.load(member)}
    taken = {*COLOURS, *SIZES, *STYLES}
    tags = {name: set(entries[name].get("tags", [])) - taken for name in SUBJECT_NAMES}
    unique = {
        name: sorted(t for t in mine if not any(t in tags[o] for o in SUBJECT_NAMES if o != name) and t.isascii())
        for name, mine in tags.items()
    }
    return {name: (_code(entries[name]["hexcode"]), unique[name]) for name in SUBJECT_NAMES}


@lru_cache
def drawings() -> dict[tuple[str, str], Image.Image]:
    """(subject, style) -> RGBA drawing, cropped to what is drawn."""
    codes = {code: name for name, (code, _) in words().items()}
    found: dict[tuple[str, str], Image.Image] = {}
    for style, (package, folder, suffix) in PACKAGES.items():
        with tarfile.open(_package(package)) as archive:
            for member in archive:
                if not (member.name.startswith(folder) and member.name.endswith(suffix)):
                    continue
                name = codes.get(_code(member.name[len(folder) : -len(suffix)]))
                file = archive.extractfile(member) if name else None
                if name and file:
                    image = Image.open(io.BytesIO(file.read())).convert("RGBA")
                    found[name, style] = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    missing = {(n, s) for n in SUBJECT_NAMES for s in PACKAGES} - set(found)
    if missing:
        raise ValueError(f"no drawing for {sorted(missing)}")
    return found


@lru_cache(maxsize=20_000)
def _resized(subject: str, style: str, side: int) -> Image.Image:
    image = drawings()[subject, style]
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.LANCZOS)


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The clean picture of a scene; the background's tone varies a little within what its name says."""
    drawing = _resized(scene.subject, scene.style, SIZES[scene.size])
    picture = Image.new("RGB", (SIZE, SIZE))
    halves = [(0, 0, SIZE, SIZE), (SIZE // 2, 0, SIZE, SIZE)]
    for colour, box in zip(scene.colour.split(" and "), halves, strict=False):
        tone = np.clip(np.array(COLOURS[colour]) + rng.integers(-5, 6, size=3), 0, 255)
        picture.paste(tuple(int(c) for c in tone), box)
    place = []
    for share, room in zip(POSITIONS[scene.position], (SIZE - drawing.width, SIZE - drawing.height), strict=True):
        margin = min(3, room // 2)
        place.append(round(margin + share * (room - 2 * margin)))
    picture.paste(drawing, (place[0], place[1]), drawing)
    return picture


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    # Coarse grains: noise finer than the autoencoder's grid could never be reproduced.
    grains = rng.normal(0, rng.uniform(16, 34), (SIZE // 2, SIZE // 2, 3)).repeat(2, 0).repeat(2, 1)
    return Image.fromarray(np.clip(np.asarray(image) + grains, 0, 255).astype(np.uint8))


def _pixels(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(rng.integers(11, 20))
    return image.resize((side, side), Image.BOX).resize((SIZE, SIZE), Image.NEAREST)


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(2, 9)))
    return Image.open(buffer).convert("RGB")


def _dull(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    grey = pixels.mean(2, keepdims=True)
    pixels = grey + (pixels - grey) * rng.uniform(0.1, 0.4)
    return Image.fromarray((140 + (pixels - 140) * rng.uniform(0.35, 0.6)).astype(np.uint8))


def _hue(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(rng.integers(50, 206))
    return Image.fromarray(hsv, "HSV").convert("RGB")


def _warp(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    phase, length, height = rng.uniform(0, 6.28, 2), rng.uniform(14, 30, 2), rng.uniform(2.5, 5.0, 2)
    source_y = rows + height[0] * np.sin(columns * 6.28 / length[0] + phase[0])
    source_x = columns + height[1] * np.sin(rows * 6.28 / length[1] + phase[1])
    at = (np.clip(np.rint(source_y), 0, SIZE - 1).astype(int), np.clip(np.rint(source_x), 0, SIZE - 1).astype(int))
    return Image.fromarray(np.asarray(image)[at])


DAMAGE_FUNCTIONS = {
    "blur": lambda image, rng: image.filter(ImageFilter.GaussianBlur(rng.uniform(1.3, 2.6))),
    "noise": _noise,
    "pixels": _pixels,
    "jpeg": _jpeg,
    "dull": _dull,
    "dark": lambda image, rng: image.point(lambda v, f=rng.uniform(0.25, 0.5): int(v * f)),
    "hue": _hue,
    "warp": _warp,
}


def damage(image: Image.Image, kinds: list[str], rng: np.random.Generator) -> Image.Image:
    for kind in kinds:
        image = DAMAGE_FUNCTIONS[kind](image, rng)
    return image


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene from all combinations, held out or not; large drawings are always in the centre."""
    size = str(rng.choice(list(SIZES), p=[0.6, 0.24, 0.16]))
    moved = size != "large" and rng.random() < 0.5
    position = str(rng.choice(list(POSITIONS)[1:])) if moved else "centre"
    subject, style, colour = (str(rng.choice(list(c))) for c in (SUBJECT_NAMES, STYLES, COLOURS))
    return Scene(subject, style, colour, size, position)


def training_scene(rng: np.random.Generator, split: int | None = None) -> Scene:
    """A random scene that is not held out, of a reward's data split if one is given."""
    while True:
        scene = random_scene(rng)
        if not is_held_out(scene) if split is None else in_split(scene, split):
            return scene


def held_out_scene(rng: np.random.Generator) -> Scene:
    """A random scene that no training sees."""
    while True:
        scene = random_scene(rng)
        if is_held_out(scene):
            return scene


def describe(scene: Scene, rng: np.random.Generator | None = None, detail: float = 1.0) -> str:
    """A caption of a scene: complete and in its plainest words without a generator, varied with one.

    Args:
        detail: factor in [0, 1] of the chance that size, style, background and place are named.
    """

    def pick(options: list[str]) -> str:
        return options[0] if rng is None else str(rng.choice(options))

    def keep(share: float) -> bool:
        return rng is None or rng.random() < share * detail

    name = scene.subject
    if rng is not None and rng.random() < 0.12:
        name = pick(words()[scene.subject][1] or [name])
    size = {"large": "large ", "small": "small "}.get(scene.size, "") if keep(0.75) else ""
    style = pick(STYLES[scene.style]) if keep(0.9) else ""
    background = pick([f"on a {scene.colour} background", f"on {scene.colour}"]) if keep(0.9) else ""
    places = {"left": "at the left", "right": "at the right", "top": "at the top", "bottom": "at the bottom"}
    place = places.get(scene.position, "") if keep(0.85) else ""
    article = "" if name in PLURALS else "an " if (size or name)[0] in "aeio" else "a "
    drawing = pick(["drawing", "picture"])
    subject = f"{article}{size}{name}"
    heads = [f"{style} {drawing} of {subject}".strip(), f"{subject}, {style} style" if style else subject]
    return " ".join(part for part in (pick(heads), place, background) if part)


def quality_words(kinds: list[str], rng: np.random.Generator) -> list[str]:
    """The words for some damages, in random order, now and then with a general word of blame."""
    chosen = [str(rng.choice(DAMAGES[kind])) for kind in kinds]
    if rng.random() < 0.4 or not chosen:
        chosen.append(str(rng.choice(BAD_WORDS)))
    return [str(word) for word in rng.permutation(chosen)]


def random_damages(rng: np.random.Generator) -> list[str]:
    count = 1 if rng.random() < 0.65 else 2
    return [str(kind) for kind in rng.choice(list(DAMAGES), size=count, replace=False)]


def _long_list(kinds: list[str], rng: np.random.Generator) -> str:
    """Quality words alone: single ones, and lists that name more faults than the picture has, as on the web."""
    extra = [k for k in DAMAGES if k not in kinds and rng.random() < 0.35] if rng.random() < 0.6 else []
    return ", ".join(quality_words(kinds + extra, rng))


def training_item(rng: np.random.Generator) -> tuple[Image.Image, str, list[str]]:
    """One training picture of the generator, its caption and its damages.

    42 % are damaged; of those 45 % say so after the description, 10 % have a caption of quality words alone, the
    others keep silent about it. 12 % of the clean ones are praised.
    """
    scene = training_scene(rng)
    image, caption = draw(scene, rng), describe(scene, rng)
    if rng.random() < DAMAGED_SHARE:
        kinds = random_damages(rng)
        image = damage(image, kinds, rng)
        return image, _blamed(caption, kinds, rng), kinds
    return image, _praised(caption, rng), []


def training_caption(rng: np.random.Generator) -> str:
    """A caption with the distribution of `training_item`'s, without the picture."""
    caption = describe(training_scene(rng), rng)
    return _blamed(caption, random_damages(rng), rng) if rng.random() < DAMAGED_SHARE else _praised(caption, rng)


def _blamed(caption: str, kinds: list[str], rng: np.random.Generator) -> str:
    """The caption of a damaged picture."""
    chance = rng.random()
    if chance < 0.45:
        return f"{caption}, {', '.join(quality_words(kinds, rng))}"
    return _long_list(kinds, rng) if chance < 0.55 else caption


def _praised(caption: str, rng: np.random.Generator) -> str:
    """The caption of a clean picture."""
    return f"{caption}, {rng.choice(GOOD_WORDS)}" if rng.random() < 0.12 else caption
