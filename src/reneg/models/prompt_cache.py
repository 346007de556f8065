"""Encodings of prompts on the disk, so that a run that goes on, or the next one, need not encode them again."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reneg.files import make_output_dir, write_atomically
from reneg.interfaces import Conditioning


class PromptCache:
    """One safetensors file a prompt, written whole or not at all, so that processes and runs can share a folder."""

    def __init__(self, folder: Path, null: Conditioning):
        """Make the folder.

        Args:
            null: the encoding of "", to the last bit the key of the encoders, their precision and their device: from
                a folder comes what would be computed here, and nothing else.

        Raises:
            OSError, ValueError: the folder cannot be written; in one line.
        """
        make_output_dir(folder, flag="--prompt_cache")
        self._folder = folder
        tensors = [tensor.cpu().contiguous() for tensor in null.tensors()]
        parts = [f"{t.dtype} {list(t.shape)}".encode() + t.view(torch.uint8).numpy().tobytes() for t in tensors]
        self._key = hashlib.sha256(b"".join(parts)).digest()

    def get(self, prompt: str, encode: Callable[[str], Conditioning]) -> Conditioning:
        """A prompt's encoding on the CPU, as `encode` gives it: from its file, or else made and kept."""
        name = hashlib.sha256(self._key + prompt.encode()).hexdigest()
        path = self._folder / f"{name}.safetensors"
        try:
            return Conditioning(**load_file(path))
        except (FileNotFoundError, SafetensorError):  # not there, or damaged
            encoding = encode(prompt)
        named = {name: tensor.contiguous() for name, tensor in vars(encoding).items() if tensor is not None}
        write_atomically(path, lambda temporary: save_file(named, temporary, {"prompt": prompt}))
        return encoding
