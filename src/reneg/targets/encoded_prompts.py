"""Prompts' encodings, each made once: for the targets that leave the text encoder as it is."""

from collections.abc import Sequence

from reneg.interfaces import Conditioning, DiffusionModel


class EncodedPrompts:
    """Encodings by prompt, in the model's precision."""

    def __init__(self):
        self._encoded: dict[str, Conditioning] = {}

    def __call__(self, model: DiffusionModel, prompts: Sequence[str]) -> Conditioning:
        """[b] prompts -> their encodings, without a graph."""
        for prompt in prompts:
            if prompt not in self._encoded:
                # One at a time: in a batch the last bits would depend on which prompts a restart has left to encode.
                self._encoded[prompt] = model.encode_prompt([prompt]).detach()
        return Conditioning.concatenate(*(self._encoded[prompt] for prompt in prompts))
