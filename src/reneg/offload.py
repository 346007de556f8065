"""What a phase does not need waits on the CPU, so that parts that never work together share a GPU's memory."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import Module

Parts = Mapping[str, Callable[[], Sequence[Module]]]
"""Name -> its modules as they are now: text encoders that were let go must not be held here."""


class Offload:
    """Moves whole parts between a device and the CPU, at the borders of phases alone.

    Never within a step that carries a gradient: autograd keeps frozen weights by reference, so weights that were moved
    away would be missing in the backward pass.
    """

    def __init__(self, parts: Parts, device: torch.device):
        self._parts, self._device = parts, device

    def only(self, *names: str) -> None:
        """Begin a phase that needs some parts: the others leave the device first, then these go there."""
        needed = [module for name in names if name in self._parts for module in self._parts[name]()]
        kept = {id(module) for module in needed}
        for part in self._parts.values():
            for module in part():
                if id(module) not in kept:
                    module.to("cpu")
        for module in needed:
            module.to(self._device)


EVERYTHING_STAYS = Offload({}, torch.device("cpu"))
"""Without offloading: no phase moves anything."""
