"""Stages `failures` and `rewards`: three text-image preference models and an image-only aesthetic head.

Each is trained by contrast and on preference pairs from the start: clean over damaged, matching over mismatching, real
over the generator's own failures (one-step predictions and samples of under-trained snapshots). They share neither
seed, nor size, nor data split with each other, and nothing with the generator's text encoder.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from .data import (
    COLOURS,
    POSITIONS,
    SIZE,
    STYLES,
    SUBJECT_NAMES,
    WORK,
    Scene,
    damage,
    describe,
    draw,
    held_out_scene,
    in_split,
    training_scene,
)
from .tokenizer import END, MAX_TOKENS, START
from .training import Run, to_tensor

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
WRONG_CAPTIONS = 4
"""Captions that differ in one thing, set against the true one for every picture."""
DAMAGE_SHARES = {"blur": 4, "noise": 3, "pixels": 4, "jpeg": 3, "dull": 1, "dark": 1, "hue": 1, "warp": 5}
"""How often each damage is shown, relative to the others: the ones that are hard to see more often."""
TWO_COLOURS, TERSE = 0.35, 0.5
"""Shares of pictures on a background of two halves, and of captions that leave most things out.

Every drawing comes on a few flat backgrounds only; without these the towers learn drawing and background as one, and
fail on held-out combinations (95 % on their own, 82 % on those, measured).
"""
MAX_LOGIT_SCALE = float(np.log(40.0))


@dataclass(frozen=True)
class RewardSpec:
    """What sets one reward apart from the others."""

    seed: int
    split: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    projection: int


REWARDS = {
    "preference": RewardSpec(101, 0, 128, 4, 128, 2, 96),
    "monitor": RewardSpec(202, 1, 96, 5, 96, 2, 64),
    "judge": RewardSpec(303, 2, 144, 4, 96, 3, 128),
    "aesthetic": RewardSpec(404, 3, 96, 4, 0, 0, 1),
}


def build(spec: RewardSpec, tokenizer: CLIPTokenizer) -> torch.nn.Module:
    heads = {96: 4, 128: 4, 144: 6}
    vision = {
        "hidden_size": spec.vision_width,
        "intermediate_size": 3 * spec.vision_width,
        "num_hidden_layers": spec.vision_layers,
        "num_attention_heads": heads[spec.vision_width],
        "image_size": SIZE,
        "patch_size": 8,
        "projection_dim": spec.projection,
        "attn_implementation": "eager",  # faster than the fused kernel at 65 tokens on a CPU
    }
    if not spec.text_width:
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**vision))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": spec.text_width,
        "intermediate_size": 3 * spec.text_width,
        "num_hidden_layers": spec.text_layers,
        "num_attention_heads": heads[spec.text_width],
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": spec.projection,
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END),
        "attn_implementation": "eager",
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=spec.projection))


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [b, 3, 64, 64] -> the towers' input."""
    return pictures.float() / 127.5 - 1


def round_trip(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures [n, 3, 64, 64] -> what the autoencoder makes of them, uint8."""
    out = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for part in normalise(pictures).split(50):
            out.append(vae.decode(vae.encode(part).latent_dist.mean).sample.float())
    return ((torch.cat(out).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def mismatches(scene: Scene, rng: np.random.Generator, subject_only: bool = False) -> Scene:
    """A scene that differs in one thing, most often the subject."""

    def other(values, own: str) -> str:
        return str(rng.choice([v for v in values if v not in own.split(" and ")]))

    kind = 0.0 if subject_only else rng.random()
    if kind < 0.65:
        return replace(scene, subject=other(SUBJECT_NAMES, scene.subject))
    if kind < 0.72:
        return replace(scene, colour=other(COLOURS, scene.colour))
    if kind < 0.88 or scene.size == "large":
        return replace(scene, style=other(STYLES, scene.style))
    return replace(scene, position=other(POSITIONS, scene.position))


def pair_damages(rng: np.random.Generator) -> list[str]:
    """Damages of the worse picture of a pair: one kind for most, since two at once are easy to see."""
    shares = np.array(list(DAMAGE_SHARES.values())) / sum(DAMAGE_SHARES.values())
    count = 1 if rng.random() < 0.85 else 2
    return [str(kind) for kind in rng.choice(list(DAMAGE_SHARES), size=count, replace=False, p=shares)]


def pool_scene(rng: np.random.Generator, split: int) -> Scene:
    """A scene of a reward's split, on one of its colours or on two."""
    while True:
        scene = training_scene(rng, split)
        if rng.random() < TWO_COLOURS:
            second = rng.choice([colour for colour in COLOURS if colour != scene.colour])
            scene = replace(scene, colour=f"{scene.colour} and {second}")
        if in_split(scene, split):
            return scene


def make_pool(spec: RewardSpec, vae: AutoencoderKL, count: int = 20_000, decoded: float = 0.2) -> dict:
    """Training pairs of a reward's split: clean and damaged pictures of the same scene, a part through the VAE."""
    rng = np.random.default_rng(spec.seed)
    scenes = [pool_scene(rng, spec.split) for _ in range(count)]
    clean = [draw(scene, rng) for scene in scenes]
    spoiled = [damage(image, pair_damages(rng), rng) for image in clean]
    pool = {
        "scenes": scenes,
        "clean": (to_tensor(clean) * 255).round().to(torch.uint8),
        "worse": (to_tensor(spoiled) * 255).round().to(torch.uint8),
    }
    rows = int(count * decoded)
    for key in ("clean", "worse"):
        pool[key][:rows] = round_trip(vae, pool[key][:rows])
    failures = torch.load(WORK / "failures.pt", weights_only=True)
    known = [Scene(*scene) for scene in failures["scenes"]]
    keep = [i for i, scene in enumerate(known) if in_split(scene, spec.split)]
    # A failure's better counterpart is a real picture of the same scene, half of them through the VAE.
    partners = (to_tensor([draw(known[i], rng) for i in keep]) * 255).round().to(torch.uint8)
    partners[::2] = round_trip(vae, partners[::2])
    pool["scenes"] = pool["scenes"] + [known[i] for i in keep]
    pool["clean"] = torch.cat([pool["clean"], partners])
    pool["worse"] = torch.cat([pool["worse"], failures["pictures"][keep]])
    pool["failures_from"] = count
    return pool


def captions_of(scene: Scene, split: int, rng: np.random.Generator) -> list[str]:
    """The true caption, and others of the same wording that differ in one thing.

    The others are of the reward's split too: a combination that only ever came as a wrong caption would be learned as
    wrong, and held-out ones must not come at all.
    """
    wording, detail = int(rng.integers(2**31)), 0.3 if rng.random() < TERSE else 1.0
    true = describe(scene, np.random.default_rng(wording), detail)
    texts = [true]
    while len(texts) < 1 + WRONG_CAPTIONS:
        other = mismatches(scene, rng)
        text = describe(other, np.random.default_rng(wording), detail)
        if text != true and in_split(other, split):  # the wording may leave out what differs
            texts.append(text)
    return texts


def clip_loss(
    model: CLIPModel, clean: torch.Tensor, worse: torch.Tensor, ids: torch.Tensor, damaged: int
) -> tuple[torch.Tensor, dict]:
    """Contrast over the batch, the true caption against wrong ones, and clean over worse for the true caption.

    Args:
        ids: [b, 1 + WRONG_CAPTIONS, 32] token ids, the true caption first.
        damaged: the first so many of the worse pictures are damaged real ones, which a caption describes as well.
    """
    batch = len(clean)
    pictures = model.get_image_features(pixel_values=normalise(torch.cat([clean, worse]))).pooler_output
    good, bad = F.normalize(pictures, dim=-1).split(batch)
    texts = F.normalize(model.get_text_features(input_ids=ids.flatten(0, 1)).pooler_output, dim=-1)
    texts = texts.unflatten(0, (batch, -1))
    scale = model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
    similarity = scale * good @ texts[:, 0].T
    labels = torch.arange(batch)
    contrast = (F.cross_entropy(similarity, labels) + F.cross_entropy(similarity.T, labels)) / 2
    choices = scale * torch.einsum("bd,bkd->bk", good, texts)
    damaged_choices = scale * torch.einsum("bd,bkd->bk", bad[:damaged], texts[:damaged])
    caption = F.cross_entropy(torch.cat([choices, damaged_choices]), torch.zeros(batch + damaged, dtype=torch.long))
    gap = choices[:, 0] - scale * (bad * texts[:, 0]).sum(-1)
    preference = F.softplus(1.0 - gap).mean()
    figures = {
        "caption_accuracy": float((choices.argmax(1) == 0).float().mean()),
        "preference_accuracy": float((gap > 0).float().mean()),
    }
    return contrast + caption + preference, figures


def aesthetic_loss(
    model: CLIPVisionModelWithProjection, clean: torch.Tensor, worse: torch.Tensor
) -> tuple[torch.Tensor, dict]:
    """Clean over worse, of the same scene and across scenes; scores kept near zero mean."""
    scores = model(pixel_values=normalise(torch.cat([clean, worse]))).image_embeds.squeeze(-1)
    good, bad = scores.split(len(clean))
    gap, across = good - bad, good - bad.roll(1)
    loss = F.softplus(1.0 - gap).mean() + 0.5 * F.softplus(1.0 - across).mean() + 1e-3 * scores.pow(2).mean()
    return loss, {"preference_accuracy": float((gap > 0).float().mean())}


def train(name: str, tokenizer: CLIPTokenizer, vae: AutoencoderKL, minutes: float, batch: int = 48) -> torch.nn.Module:
    spec = REWARDS[name]
    torch.manual_seed(spec.seed)
    model = build(spec, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    run = Run(name, {"model": model}, optimizer, minutes=minutes)
    if run.progress >= 1:
        return model
    pool = make_pool(spec, vae)
    failures = len(pool["scenes"]) - pool["failures_from"]

    def loss_of(step: int) -> tuple[torch.Tensor, dict]:
        rng = np.random.default_rng((spec.seed, 1, step))
        of_failures = batch // 8
        rows = np.concatenate(
            [
                rng.integers(pool["failures_from"], size=batch - of_failures),
                pool["failures_from"] + rng.integers(failures, size=of_failures),
            ]
        )
        clean, worse = pool["clean"][rows], pool["worse"][rows]
        if not spec.text_width:
            return aesthetic_loss(model, clean, worse)
        texts = [text for row in rows for text in captions_of(pool["scenes"][row], spec.split, rng)]
        # To the longest only: under a causal mask with pooling at the end token, padding changes nothing but the cost.
        options = {"padding": True, "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
        ids = tokenizer(texts, **options).input_ids.unflatten(0, (batch, -1))
        return clip_loss(model, clean, worse, ids, batch - of_failures)

    def keep_scale() -> None:
        if spec.text_width:
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    run.train(loss_of, after=keep_scale)
    return model


def make_failures(pipelines: list, count: int, held_out: bool, seed: int) -> dict:
    """What under-trained snapshots of the generator make, decoded: one-step predictions and short samples."""
    from reneg.models.sd import StableDiffusion

    rng = np.random.default_rng(seed)
    scenes, pictures, kinds = [], [], []
    for start in range(0, count, 50):
        model = StableDiffusion(pipelines[(start // 50) % len(pipelines)], name="snapshot")
        batch = [held_out_scene(rng) if held_out else training_scene(rng) for _ in range(50)]
        kind = "one-step prediction" if (start // 50) % 2 else "under-trained sample"
        pictures.append(_failure(model, [describe(s, rng) for s in batch], kind, rng))
        scenes += batch
        kinds += [kind] * len(batch)
    return {
        "scenes": [(s.subject, s.style, s.colour, s.size, s.position) for s in scenes],
        "kinds": kinds,
        "pictures": torch.cat(pictures),
    }


@torch.no_grad()
def _failure(model, prompts: list[str], kind: str, rng: np.random.Generator) -> torch.Tensor:
    """[b] prompts -> uint8 [b, 3, 64, 64], from a guided 10-step trajectory that is cut short for a prediction."""
    from reneg.algorithm import denoise, predict_guided
    from reneg.prediction import predict_x0

    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    latents = model.initial_latents(torch.randn((len(prompts), *model.latent_shape), generator=generator))
    positive, negative = model.encode_prompt(prompts), model.encode_prompt([""]).expand(len(prompts))
    timesteps, scale = model.set_timesteps(10), float(rng.uniform(2.0, 9.0))
    stop = int(rng.integers(3, 8)) if kind == "one-step prediction" else 10
    latents = denoise(model, latents, timesteps[:stop], positive, negative, scale, [])
    if stop < 10:
        prediction = predict_guided(model, latents, timesteps[stop], positive, negative, scale)
        latents = predict_x0(latents, prediction, *model.alpha_sigma(timesteps[stop]), "epsilon")
    return (model.decode(latents).clamp(0, 1) * 255).round().to(torch.uint8)


def save(model: torch.nn.Module, tokenizer: CLIPTokenizer, folder) -> None:
    """fp16 safetensors with everything that `from_pretrained` needs."""
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()
    if isinstance(model, CLIPModel):
        tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
