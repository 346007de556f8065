"""The table of rewards, and loading one by name or folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from reneg.interfaces import Reward
from reneg.rewards.aesthetic import AestheticReward
from reneg.rewards.clip import ClipReward
from reneg.world import WEIGHTS

KINDS: dict[str, type[ClipReward] | type[AestheticReward]] = {"clip": ClipReward, "aesthetic": AestheticReward}


@dataclass(frozen=True)
class RewardSource:
    """Where a reward's weights are, and how they are read."""

    folder: Path
    kind: Literal["clip", "aesthetic"]


REWARDS = {
    "world/preference": RewardSource(WEIGHTS / "preference", "clip"),
    "world/monitor": RewardSource(WEIGHTS / "monitor", "clip"),
    "world/judge": RewardSource(WEIGHTS / "judge", "clip"),
    "world/aesthetic": RewardSource(WEIGHTS / "aesthetic", "aesthetic"),
}
"""The bundled world's four: one to train on, one to monitor with, and two judges for evaluation alone."""


def load_reward(reward: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Reward:
    """Load a frozen reward.

    Args:
        reward: a row of REWARDS, or the folder of a transformers CLIPModel with its tokenizer and image processor.

    Raises:
        ValueError: unknown name, or a folder that holds no such model.
    """
    source = REWARDS.get(reward)
    if source is None and not Path(reward).is_dir():
        raise ValueError(
            f"reward {reward!r} is unknown; choose from {', '.join(REWARDS)}, or the folder of a CLIPModel"
        )
    source = source or RewardSource(Path(reward), "clip")
    return KINDS[source.kind].from_pretrained(source.folder, name=reward, device=device, dtype=dtype)
