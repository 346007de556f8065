"""Learn negative embeddings for diffusion models from a reward (ReNeg, arXiv 2412.19637).

The public names load on first use, so that importing the package costs nothing:

    import reneg
    negative = reneg.learn(reneg.LearnConfig(output_dir="runs/mine", **reneg.preset("world")))
    images = pipe(prompts, **negative.for_pipeline(pipe, num_prompts=len(prompts))).images
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from reneg.config import EvaluateConfig as EvaluateConfig
    from reneg.config import GenerateConfig as GenerateConfig
    from reneg.config import LearnConfig as LearnConfig
    from reneg.config import preset as preset
    from reneg.evaluation import evaluate as evaluate
    from reneg.generation import generate as generate
    from reneg.learning import learn as learn
    from reneg.models import load_model as load_model
    from reneg.negative import NegativeEmbedding as NegativeEmbedding
    from reneg.refinement.config import RefineConfig as RefineConfig
    from reneg.refinement.run import refine as refine
    from reneg.rewards import load_reward as load_reward

_HOME = {
    "EvaluateConfig": "reneg.config",
    "GenerateConfig": "reneg.config",
    "LearnConfig": "reneg.config",
    "NegativeEmbedding": "reneg.negative",
    "RefineConfig": "reneg.refinement.config",
    "evaluate": "reneg.evaluation",
    "generate": "reneg.generation",
    "learn": "reneg.learning",
    "load_model": "reneg.models",
    "load_reward": "reneg.rewards",
    "preset": "reneg.config",
    "refine": "reneg.refinement.run",
}
"""Public name -> the module that defines it."""

__all__ = [
    "EvaluateConfig",
    "GenerateConfig",
    "LearnConfig",
    "NegativeEmbedding",
    "RefineConfig",
    "evaluate",
    "generate",
    "learn",
    "load_model",
    "load_reward",
    "preset",
    "refine",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'reneg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
