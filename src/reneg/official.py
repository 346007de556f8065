"""The files of the official ReNeg repository: one bare tensor in a `.bin`, recognised by its shape.

They hold neither the null text's encoding nor a mask, so which encoder they fit is not proven by the file.
"""

import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Encoder:
    """A text encoder that an official file is for."""

    family: str
    fits: str
    """The models that share it."""
    masked: bool
    """Whether the denoiser reads the null text's single token alone (T5 in PixArt)."""


ENCODERS: dict[tuple[int, int], Encoder] = {
    (77, 768): Encoder("sd", "Stable Diffusion 1.4 or 1.5, and models that share their CLIP-L", False),
    (77, 1024): Encoder("sd", "Stable Diffusion 2.1, and models that share its OpenCLIP-H", False),
    (120, 4096): Encoder("pixart", "PixArt-alpha, which reads T5-XXL", True),
}
"""(tokens, width) of an official file -> its encoder."""
DAMAGE = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, struct.error, ValueError, OverflowError)
"""What reading a damaged zip raises."""
UNPICKLING = (
    *(pickle.UnpicklingError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError, MemoryError),
)
"""What torch's unpickler raises on a pickle that holds more than tensors, or is none."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def looks_official(path: Path) -> bool:
    """Whether to read a file as an official one: a zip, as torch writes, or a `.bin` that is no safetensors file."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[:4] == b"PK\x03\x04" or (path.suffix.lower() == ".bin" and start[8:] != b"{")


def read_official(
    path: Path,
) -> tuple[Float[Tensor, "1 l d"], Float[Tensor, "1 l"] | None, dict[str, str]]:
    """The embedding of an official file, the mask that it lacks, and what is known of it. No code in it is executed.

    Raises:
        ValueError: it is no such file, holds anything but one tensor of a known shape, or NaN or infinity.
    """
    try:
        _check_archive(path)
        # weights_only: torch's own unpickler, which builds tensors and refuses everything else before running it.
        with path.open("rb") as file, warnings.catch_warnings():  # given the path, torch would go by its suffix
            warnings.simplefilter("ignore")  # of old pickles; what matters is refused
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (*DAMAGE, *UNPICKLING) as error:
        reason = _without_advice(str(error))
        raise ValueError(
            f"{path} is damaged or holds more than tensors, and nothing in it was run: {reason}; give an official file"
        ) from error
    shapes = ", ".join(f"(1, {tokens}, {width})" for tokens, width in ENCODERS)
    if (
        type(content) not in (Tensor, torch.nn.Parameter)
        or content.dtype not in DTYPES
        or (content.layout, content.device.type) != (torch.strided, "cpu")
        # torch before 2.9 believes the pickle's size of a storage, and reads beyond the file's.
        or content.untyped_storage().nbytes() > path.stat().st_size
    ):
        raise ValueError(f"{path} does not hold one floating point tensor of shape {shapes}; give an official file")
    encoder = ENCODERS.get(tuple(content.shape[1:])) if content.ndim == 3 and len(content) == 1 else None
    if encoder is None:
        raise ValueError(f"{path} holds a tensor of shape {tuple(content.shape)}; official files have {shapes}")
    embeds = content.detach().float()
    if not embeds.isfinite().all():
        raise ValueError(f"{path} holds NaN or infinity; download it again")
    mask = torch.zeros(embeds.shape[:2]) if encoder.masked else None
    if mask is not None:
        mask[:, 0] = 1
    return embeds, mask, {"source": "official ReNeg file", "family": encoder.family, "base_model": encoder.fits}


def _without_advice(message: str) -> str:
    """The fact in an error of torch.load, in one line, without its advice to load the file unsafely."""
    fact = message.rpartition("WeightsUnpickler error: ")[2]
    return " ".join(re.split(r"Please use|Check the documentation", fact)[0].split())[:160]


def _check_archive(path: Path) -> None:
    """Refuse a zip that torch would not have written, before torch reads it: torch checks no checksum.

    Raises:
        ValueError: a compressed, encrypted or damaged entry, or another byte order than the official files'.
        zipfile.BadZipFile and other errors of `DAMAGE`: it is no readable zip.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise ValueError("an entry is compressed or encrypted")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries overlap")
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {name!r} is wrong")
        orders = [archive.read(entry) for entry in entries if entry.filename.endswith("/byteorder")]
        if any(order != b"little" for order in orders):
            raise ValueError("its byte order is not little")
