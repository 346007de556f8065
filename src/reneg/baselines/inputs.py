"""What every method reads: its prompts, and what identifies the weights that its results depend on."""

from reneg.baselines.config import PromptwiseConfig
from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import load_groups
from reneg.evaluation.runner import model_fingerprint
from reneg.evaluation.runner import reward_fingerprint as evaluation_fingerprint
from reneg.evaluation.store import fingerprint

__all__ = ["fingerprint", "model_fingerprint", "prompts_of", "reward_fingerprint"]


def prompts_of(config: PromptwiseConfig) -> list[str]:
    """The prompts to find negatives for: those that evaluate takes by the same flags."""
    groups = load_groups(EvaluateConfig(prompts=config.prompts, max_prompts=config.max_prompts))
    return [prompt for group in groups.values() for prompt in group]


def reward_fingerprint(reward: str) -> str:
    """What identifies a reward's scores."""
    return evaluation_fingerprint(reward, published=False)
