"""What autograd keeps for the backward pass, counted by its own hooks."""

import torch
from torch import Tensor


class Saved:
    """Bytes of the tensors that autograd keeps for the backward pass, each storage once, weights excluded."""

    def __init__(self, *modules: torch.nn.Module):
        self._weights = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
        self._storages: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata  # tensors without numbers have no address of data
        if storage not in self._weights:
            self._storages[storage] = tensor  # keeps the storage alive, so that no address is used twice
        return tensor

    def recording(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)

    @property
    def kilobytes(self) -> float:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._storages.values()) / 1024
