"""A reward of the user's own: any Python callable, or a `module:function` that is on the module path or here."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Reward

OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:function`; nothing else that names a reward looks like it."""


class OwnReward:
    """A function of pictures `[b, 3, h, w]` in [0, 1] and their prompts, checked at each call."""

    # Any: what it is and what it gives is what is checked.
    def __init__(self, function: Any, *, name: str):
        """Raises ValueError: it cannot be called with pictures and prompts; in one line."""
        if isinstance(function, type) or not callable(function):
            what = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
            raise ValueError(f"--reward {name} is {what}; give a function of (images, prompts), or an object with one")
        try:
            inspect.signature(function).bind(None, None)
        except TypeError as error:
            raise ValueError(f"--reward {name} must take (images, prompts): {error}") from error
        if isinstance(function, torch.nn.Module):
            function.requires_grad_(False).eval()
        self.name, self._function = name, function

    def modules(self) -> list[torch.nn.Module]:
        """The function, if it is a module; weights that it holds in another way are not known."""
        return [self._function] if isinstance(self._function, torch.nn.Module) else []

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Raises ValueError: the scores are not `[b]` numbers, or have no gradient where one is needed."""
        scores = self._function(images, prompts)
        if not isinstance(scores, Tensor) or scores.shape != (len(images),) or not scores.is_floating_point():
            got = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"--reward {self.name} gave {got}; it must give a float tensor of shape [{len(images)}]")
        if torch.is_grad_enabled() and images.requires_grad and not scores.requires_grad:
            raise ValueError(
                f"--reward {self.name} gives no gradient; compute the scores from images with torch alone"
            )
        return scores


def as_reward(function: Callable[[Tensor, Sequence[str]], Any]) -> Reward:
    """A callable as a reward; one that is a reward already stays itself.

    Raises:
        ValueError: its signature is another.
    """
    if isinstance(function, Reward) and not isinstance(function, type):
        return function
    named = function if inspect.isroutine(function) else type(function)
    return OwnReward(function, name=f"{named.__module__}:{named.__qualname__}")


def load_own(reward: str) -> OwnReward:
    """Import `module:function`, from the working folder too.

    Raises:
        ValueError: there is no such module or function, or its signature is another; in one line.
    """
    module_name, function = reward.split(":")
    module = _import(module_name, reward)
    if function not in vars(module):
        raise ValueError(f"--reward {reward}: module {module_name} has no {function}; write MODULE:FUNCTION")
    return OwnReward(vars(module)[function], name=reward)


def own_source(reward: str) -> str:
    """The file that defines a `module:function`: its content identifies the scores, as far as one file can."""
    module = _import(reward.split(":")[0], reward)
    return inspect.getsourcefile(module) or module.__name__


def _import(name: str, reward: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` does, and not as an installed command does
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"--reward {reward}: {error}; install the module, or start where its file is") from error
    finally:
        sys.path.remove(here)
