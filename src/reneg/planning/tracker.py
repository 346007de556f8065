"""Live bytes of tensors, counted operation by operation; with fake tensors nothing is computed or allocated."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(TorchDispatchMode):
    """While it is active: the bytes of every storage that operations made and something still holds.

    What autograd saves for backward is held by the graph, so it counts until backward frees it. Scratch memory inside
    a kernel does not count.
    """

    def __init__(self, weights: Iterable[Tensor]):
        super().__init__()
        self.live = 0
        self.peak = 0
        self._held: dict[int, Any] = {weight.untyped_storage()._cdata: weight for weight in weights}
        """Storage -> what keeps its address taken: the weights themselves, not counted, and references to the rest."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def restart_peak(self) -> None:
        """Count the peak from what is live now."""
        self.peak = self.live

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._held:
            return

        def free(_: Any) -> None:
            self.live -= size
            del self._held[key]

        self._held[key] = weakref.ref(storage, free)
        self.live += size
        self.peak = max(self.peak, self.live)
