"""Stage `export`: the finished world in the layouts of diffusers and transformers, with checksums."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from reneg.world import DENOISERS

from . import generator, prompts, rewards
from .data import WORK, draw
from .training import PACKAGE, to_tensor

RECIPE_VERSION = "1"
REAL_PICTURES = 156
"""How many real pictures of evaluation prompts are shipped, to show what they score."""
LIMIT_BYTES = {"siblings": 32 * 2**20, "world": 48 * 2**20}
"""Of the denoisers that stand in for the generator's own, and of everything else."""


def export(
    model: torch.nn.Module, tokenizer, vae, reward_models: dict[str, torch.nn.Module], folder: Path = PACKAGE
) -> None:
    scaling = torch.load(WORK / "latents.pt", weights_only=True)["scaling_factor"]
    generator.save(generator.pipeline(model, tokenizer, vae, scaling), folder / "generator")
    for name, reward in reward_models.items():
        rewards.save(reward, tokenizer, folder / name)
    prompts.write()
    write_real_pictures(folder / "real.safetensors")
    declare_float32(folder)
    write_checksums(folder)
    copy_logs()


def declare_float32(folder: Path) -> None:
    """Let transformers load float32, as diffusers does, from files that hold half precision.

    By default it takes a configuration's `dtype`, and a pipeline of both would not run.
    """
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.get("dtype") == "float16":
            path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def copy_logs(folder: Path = Path(__file__).parent / "results" / "training") -> None:
    """Losses, accuracies and wall time of the training as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in WORK.glob("*/log.jsonl"):
        shutil.copyfile(log, folder / f"{log.parent.name}.jsonl")


def write_real_pictures(path: Path) -> None:
    """Clean drawings for evaluation prompts spread over the styles, with their prompts."""
    import numpy as np

    rng = np.random.default_rng(41)
    groups = prompts.evaluation_scenes().values()
    each = REAL_PICTURES // len(groups)
    scenes = [scenes[i * len(scenes) // each] for scenes in groups for i in range(each)]
    pictures = (to_tensor([draw(scene, rng) for scene in scenes]) * 255).round().to(torch.uint8)
    texts = [prompts.describe(scene) for scene in scenes]
    save_file({"pictures": pictures.permute(0, 2, 3, 1).contiguous()}, path, metadata={"prompts": json.dumps(texts)})


def write_checksums(folder: Path) -> None:
    """`manifest.json`: recipe version, size and SHA-256 of every file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    sizes = dict.fromkeys(LIMIT_BYTES, 0)
    for path in files:
        sizes["siblings" if path.relative_to(folder).parts[0] in DENOISERS else "world"] += path.stat().st_size
    for part, limit in LIMIT_BYTES.items():
        if sizes[part] > limit:
            raise ValueError(f"the {part} takes {sizes[part]} bytes, more than {limit}")
    manifest = {
        "recipe_version": RECIPE_VERSION,
        "licence": "Apache-2.0; drawings: see NOTICE",
        "bytes": sum(sizes.values()),
        "sha256": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
