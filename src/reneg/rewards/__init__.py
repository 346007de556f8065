"""The table of rewards, and loading one by name, file, folder or hub id."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from reneg.interfaces import Reward
from reneg.rewards.aesthetic import load_laion, load_vision
from reneg.rewards.clip import load_cosine, load_scaled
from reneg.rewards.hps import load_hps
from reneg.rewards.imagereward import load_image_reward
from reneg.rewards.loading import Kind, RewardSource, Settings
from reneg.rewards.mixture import Mixture, parse_weight
from reneg.rewards.own import OWN, load_own
from reneg.rewards.process import ProcessReward, is_process, no_gradient, read_process
from reneg.world import WEIGHTS

KINDS: dict[Kind, Callable[[RewardSource, Settings], Reward]] = {
    "clip": load_scaled,
    "cosine": load_cosine,
    "vision": load_vision,
    "laion": load_laion,
    "hps": load_hps,
    "imagereward": load_image_reward,
}

HALF: tuple[Kind, ...] = ("clip", "cosine", "hps")
"""Kinds that may be in bfloat16: their last sum is in float32."""
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
CLIP_L = "openai/clip-vit-large-patch14"
BERT = "google-bert/bert-base-uncased"
REWARDS: dict[str, RewardSource] = {
    # The bundled world's four: one to train on, one to monitor with, and two judges for evaluation alone.
    "world/preference": RewardSource("clip", WEIGHTS / "preference"),
    "world/monitor": RewardSource("clip", WEIGHTS / "monitor"),
    "world/judge": RewardSource("clip", WEIGHTS / "judge"),
    "world/aesthetic": RewardSource("vision", WEIGHTS / "aesthetic"),
    "hpsv2.1": RewardSource("hps", "xswu/HPSv2", "HPS_v2.1_compressed.pt", CLIP_H),
    "hpsv2.0": RewardSource("hps", "xswu/HPSv2", "HPS_v2_compressed.pt", CLIP_H),
    "pickscore": RewardSource("clip", "yuvalkirstain/PickScore_v1", companion=CLIP_H),
    "clipscore": RewardSource("cosine", CLIP_L),  # the cosine alone: no factor 100 or 2.5, no max(0, .)
    "aesthetic": RewardSource("laion", "trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth", CLIP_L),
    "aesthetic-v1": RewardSource("laion", None, "sa_0_4_vit_l_14_linear.pth", CLIP_L),
    "imagereward": RewardSource("imagereward", "zai-org/ImageReward", "ImageReward.pt", BERT),
}
"""Name -> where it is and how it is read. Rewards on the hub were never run here, only their layouts."""
FILES: dict[str, str] = {
    "HPS_v2.1_compressed.pt": "hpsv2.1",
    "HPS_v2_compressed.pt": "hpsv2.0",
    "aesthetic-model.pth": "aesthetic",
    "sac+logos+ava1-l14-linearMSE.pth": "aesthetic",
    "sa_0_4_vit_l_14_linear.pth": "aesthetic-v1",
    "ImageReward.pt": "imagereward",
}
"""Original file name -> its row of REWARDS: how a file, or a folder that holds one, is recognised.

The same tensors as safetensors have that name with the other suffix.
"""
SCORERS = FILES | {f"{Path(file).stem}.safetensors": name for file, name in FILES.items()}
HUB_ID = re.compile(r"(?!world/)[\w-][\w.-]*/[\w-][\w.-]*")


def find_reward(reward: str) -> tuple[str, RewardSource]:
    """(name, source) of a row of REWARDS, an original file, a folder with one, a CLIPModel's folder or a hub id.

    A file or folder with a known scorer takes the scorer's name, which the reports show; others keep their own.

    Raises:
        ValueError: it is none of them.
    """
    if reward in REWARDS:
        return reward, REWARDS[reward]
    path = Path(reward)
    if path.is_file():
        return _known(path, reward)
    if path.is_dir():
        files = [path / file for file in SCORERS if (path / file).is_file()]
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"reward {reward!r} holds more than one scorer ({names}); give the file instead")
        return _known(files[0], reward) if files else (reward, RewardSource("clip", path))
    if HUB_ID.fullmatch(reward):
        return reward, RewardSource("clip", reward)
    raise ValueError(
        f"reward {reward!r} is unknown; choose from {', '.join(REWARDS)}, the folder or hub id of a CLIPModel, "
        "the .toml file of a scorer in another process, or your own MODULE:FUNCTION"
    )


def _known(file: Path, reward: str) -> tuple[str, RewardSource]:
    if file.name not in SCORERS:
        names = ", ".join(FILES)
        raise ValueError(
            f"reward {reward!r} is no known scorer's file; its name must be one of {names}, or that with .safetensors"
        )
    name = SCORERS[file.name]
    return name, replace(REWARDS[name], location=file.parent, weights=file.name)


def load_reward(
    reward: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, published: bool = False
) -> Reward:
    """Load a frozen reward.

    Args:
        reward: a row of REWARDS, a scorer's original file or a folder that holds it, the folder or hub id of a
            transformers CLIPModel with its tokenizer and image processor, the .toml file of a scorer in another
            process, or a user's own `module:function`.
        dtype: of its weights; bfloat16 for CLIP models alone, whose cosines stay in float32.
        published: take the path that published numbers come from, which gives no gradient.

    Raises:
        ValueError: unknown name, or weights that are not what they should be; in one line.
    """
    external = OWN.fullmatch(reward) is not None or is_process(reward)
    if dtype == torch.bfloat16 and (external or find_reward(reward)[1].kind not in HALF):
        raise ValueError(f"--reward_dtype bf16: goes with CLIP models, and reward {reward!r} is none")
    if OWN.fullmatch(reward):
        return load_own(reward)
    if is_process(reward):
        return ProcessReward(read_process(Path(reward)))
    name, source = find_reward(reward)
    if source.location is None:
        raise ValueError(f"reward {name!r} is on no hub; give the path of {source.weights} instead of the name")
    return KINDS[source.kind](source, Settings(name, device, dtype, published))


def load_mixture(entries: Sequence[str] | str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Reward:
    """What learning maximises: one reward in its own units, or a mixture of `NAME=WEIGHT`; no weight counts as 1.

    Raises:
        ValueError: there is none, one is given twice or gives no gradient, or as for `load_reward`.
    """
    parsed = [parse_weight(entry) for entry in ([entries] if isinstance(entries, str) else entries)]
    if not parsed:
        raise ValueError("--reward: give at least one")
    for name, _ in parsed:
        if is_process(name):
            raise ValueError(no_gradient(name))
    if len(parsed) == 1 and parsed[0][1] is None:
        return load_reward(parsed[0][0], device=device, dtype=dtype)
    rewards = [load_reward(name, device=device, dtype=dtype) for name, _ in parsed]
    return Mixture(rewards, [1.0 if weight is None else weight for _, weight in parsed])
