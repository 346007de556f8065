"""Stages `accuracy` and `quality`: how good the rewards and the generator are, measured on what they never saw."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Reward
from reneg.models import load_model
from reneg.report import image_grid
from reneg.rewards import load_reward
from reneg.rewards.clip import ClipReward

from .data import DAMAGES, SUBJECT_NAMES, Scene, damage, describe, draw, held_out_scene
from .prompts import evaluation_scenes
from .rewards import mismatches
from .training import to_tensor
from .vae import psnr

RESULTS = Path(__file__).parent / "results"
PREFERENCE = ("world/preference", "world/monitor", "world/judge")
DISTRACTORS = 19


def write_results(name: str, results: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


@torch.no_grad()
def measure_rewards(failures: dict, pairs_per_kind: int = 150) -> None:
    """Accuracy of every reward on held-out pairs: each kind of damage, the generator's failures, wrong captions."""
    rng = np.random.default_rng(51)
    scenes = {kind: [held_out_scene(rng) for _ in range(pairs_per_kind)] for kind in DAMAGES}
    pairs = {}
    for kind, group in scenes.items():
        clean = [draw(scene, rng) for scene in group]
        worse = [damage(image, [kind], rng) for image in clean]
        pairs[kind] = (group, to_tensor(clean), to_tensor(worse))
    known = [Scene(*scene) for scene in failures["scenes"]]
    for kind in sorted(set(failures["kinds"])):
        rows = [i for i, k in enumerate(failures["kinds"]) if k == kind]
        group = [known[i] for i in rows]
        pairs[kind] = (group, to_tensor([draw(s, rng) for s in group]), failures["pictures"][rows].float() / 255)
    results = {}
    for name in (*PREFERENCE, "world/aesthetic"):
        reward = load_reward(name)
        wins = {}
        for kind, (group, clean, worse) in pairs.items():
            texts = [describe(scene) for scene in group]
            wins[kind] = (reward(clean, texts) > reward(worse, texts)).float()
        row = {"clean over " + kind: round(float(w.mean()), 3) for kind, w in wins.items()}
        row["clean over worse, overall"] = round(float(torch.cat(list(wins.values())).mean()), 3)
        if name in PREFERENCE:
            row |= _caption_accuracy(reward, [(s, p) for g, c, _ in pairs.values() for s, p in zip(g, c, strict=True)])
        results[name] = row
    write_results("rewards.json", {"pairs_per_damage": pairs_per_kind, "accuracy": results})


def _caption_accuracy(reward: Reward, items: list[tuple[Scene, torch.Tensor]]) -> dict[str, float]:
    """How often the true caption scores above one that differs in one thing."""
    rng = np.random.default_rng(52)
    pictures = torch.stack([picture for _, picture in items])
    true = reward(pictures, [describe(scene) for scene, _ in items])
    wrong_scenes = [mismatches(scene, rng) for scene, _ in items]
    wins = (true > reward(pictures, [describe(scene) for scene in wrong_scenes])).float()
    row = {}
    for attribute in ("subject", "style", "colour", "position"):
        rows = [i for i, (s, _) in enumerate(items) if getattr(s, attribute) != getattr(wrong_scenes[i], attribute)]
        row[f"matching over wrong {attribute}"] = round(float(wins[rows].mean()), 3)
    return row | {"matching over mismatching, overall": round(float(wins.mean()), 3)}


@torch.no_grad()
def subject_rank(reward: ClipReward, scenes: list[Scene], pictures: torch.Tensor) -> list[bool]:
    """Whether the true caption beats 19 that differ in the subject alone, for each picture."""
    rng = np.random.default_rng(53)
    hits = []
    for scene, image in zip(scenes, reward.encode_images(pictures), strict=True):
        others = rng.choice([n for n in SUBJECT_NAMES if n != scene.subject], DISTRACTORS, replace=False)
        texts = [describe(scene), *(describe(replace(scene, subject=str(name))) for name in others)]
        scores = reward.encode_prompts(texts) @ image
        hits.append(bool(scores[0] > scores[1:].max()))
    return hits


@torch.no_grad()
def measure_generator(name: str = "world") -> None:
    """The quality bar: pictures of held-out prompts with the null text, judged against real ones."""
    model, judge = load_model(name), load_reward("world/judge")
    assert isinstance(judge, ClipReward)
    scenes = [scene for group in evaluation_scenes().values() for scene in group]
    prompts = [describe(scene) for scene in scenes]
    null = model.encode_prompt([""])
    parts = []
    for start in range(0, len(prompts), 16):
        part = prompts[start : start + 16]
        noise = picture_noise(model, picture_generators(61, start, len(part)))
        parts.append(generate(model, part, null, noise))
    pictures = torch.cat(parts)
    rng = np.random.default_rng(62)
    real = to_tensor([draw(scene, rng) for scene in scenes])
    hits, real_hits = subject_rank(judge, scenes, pictures), subject_rank(judge, scenes, real)
    start = time.perf_counter()
    generate(model, prompts[:4], null, picture_noise(model, picture_generators(61, 0, 4)))
    elapsed = time.perf_counter() - start
    by_style = {
        s: round(float(np.mean([h for h, c in zip(hits, scenes, strict=True) if c.style == s])), 3)
        for s in evaluation_scenes()
    }
    results = {
        "pictures": len(pictures),
        "distractors": DISTRACTORS,
        "true_caption_first_generated": round(float(np.mean(hits)), 3),
        "true_caption_first_by_style": by_style,
        "true_caption_first_real": round(float(np.mean(real_hits)), 3),
        "ratio": round(float(np.mean(hits) / np.mean(real_hits)), 3),
        "mean_judge_generated": round(float(judge(pictures, prompts).mean()), 3),
        "mean_judge_real": round(float(judge(real, prompts).mean()), 3),
        "seconds_for_4_pictures_of_30_steps": round(elapsed, 2),
        "autoencoder_psnr_db": round(psnr(model.vae), 2),
    }
    suffix = "" if name == "world" else f"-{name}"
    write_results(f"quality{suffix}.json", results)
    chosen = [i * len(scenes) // 96 for i in range(96)]
    image_grid(pictures[chosen], 16).save(RESULTS / f"grid-null{suffix}.png")
    image_grid(real[chosen], 16).save(RESULTS / "grid-real.png")
    (RESULTS / "grid-prompts.txt").write_text("\n".join(prompts[i] for i in chosen) + "\n")
