"""Ways to spoil a negative embedding's file: kind -> a function of a random generator that gives a file's bytes."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from reneg.negative import EMBEDS, MASK, NULL_EMBEDS, POOLED, UNPROVEN, tensor_hash

Outcome = Literal["loaded", "refused", "either"]
TRACE = Path("executed")
"""The file that the code in a pickle would create, in the current folder."""


class Bomb:
    def __init__(self, call: Callable, *arguments: object):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return (self.call, self.arguments)


def bomb(rng: Random) -> Bomb:
    code = f"open({str(TRACE)!r}, 'w').close()"
    return rng.choice([Bomb(Path.touch, TRACE), Bomb(exec, code), Bomb(eval, code)])


def draw(rng: Random, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(32)))


def header_end(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


def pack(tensors: dict[str, Tensor], **metadata: str) -> bytes:
    """A safetensors file with a right checksum, in the order in which the package takes it."""
    known = [tensors[name] for name in (EMBEDS, NULL_EMBEDS, POOLED, MASK) if name in tensors]
    content = save(tensors, metadata={"format": "reneg/1", "sha256": tensor_hash(*known)} | metadata)
    end = header_end(content)
    header = json.dumps(json.loads(content[8:end]), sort_keys=True)  # safetensors writes it in a random order
    return struct.pack("<Q", len(header)) + header.encode() + content[end:]


def own(rng: Random) -> bytes:
    """What `reneg learn` or `reneg convert` writes."""
    tensors = {EMBEDS: draw(rng, 1, 5, 6), NULL_EMBEDS: draw(rng, 1, 5, 6)}
    if rng.random() < 0.5:
        tensors |= {POOLED: draw(rng, 1, 7), MASK: torch.ones(1, 5)}
    if rng.random() < 0.2:
        return pack({EMBEDS: tensors[EMBEDS]}, fingerprint=UNPROVEN)
    return pack(tensors, base_model="tiny", config=json.dumps({"seed": rng.randrange(9)}))


def torch_file(content: object, *, as_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


OFFICIAL = torch_file(draw(Random(0), 1, 77, 768))
with zipfile.ZipFile(io.BytesIO(OFFICIAL)) as _archive:
    ENTRIES = {name: _archive.read(name) for name in _archive.namelist()}
PICKLE, DATA = (next(name for name in ENTRIES if name.endswith(end)) for end in ("data.pkl", "data/0"))


def official(rng: Random) -> bytes:
    return OFFICIAL


def repack(changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The official file's entries, some replaced, with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in (ENTRIES | changed).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def flip(rng: Random, content: bytes, start: int, stop: int, most: int = 1) -> bytes:
    """Flip one to `most` different bits of the bytes from `start` to `stop`."""
    changed = bytearray(content)
    for bit in rng.sample(range(8 * start, 8 * stop), rng.randint(1, most)):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def with_header(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def flipped_header(rng: Random) -> bytes:
    content = own(rng)
    return flip(rng, content, 0, header_end(content), most=4)


def flipped_data(rng: Random) -> bytes:
    content = own(rng)
    return flip(rng, content, header_end(content), len(content), most=3)


def overwritten(rng: Random) -> bytes:
    content = bytearray(own(rng))
    start, length = rng.randrange(len(content)), rng.randint(1, 40)
    content[start : start + length] = rng.randbytes(length)
    return bytes(content)


def truncated(rng: Random) -> bytes:
    content = own(rng)
    return content[: rng.randrange(len(content))]


def appended(rng: Random) -> bytes:
    return own(rng) + rng.randbytes(rng.randint(1, 300))


def wrong_keys(rng: Random) -> bytes:
    names = [EMBEDS, NULL_EMBEDS, "lora\nup", "", "x" * rng.randint(1, 3000), "__metadata", "weight"]
    chosen = rng.sample(names, rng.randint(1, 4))
    if {EMBEDS, NULL_EMBEDS} <= set(chosen):
        chosen.append("weight")
    return pack({name: draw(rng, 1, 5, 6) for name in chosen})


def wrong_shapes(rng: Random) -> bytes:
    right, wrong = (1, 5, 6), [(5, 6), (2, 5, 6), (1, 5, 6, 1), (1, 0, 6), (1, 5, 0), (0, 5, 6), (30,), (), (1, 6, 5)]
    shapes = rng.choice([(right, rng.choice(wrong)), (rng.choice(wrong), right)])
    return pack({name: draw(rng, *shape) for name, shape in zip((EMBEDS, NULL_EMBEDS), shapes, strict=True)})


def wrong_dtypes(rng: Random) -> bytes:
    names = ("int8", "uint8", "int32", "int64", "bool", "float8_e4m3fn", "float8_e5m2")
    tensors = {EMBEDS: draw(rng, 1, 5, 6), NULL_EMBEDS: draw(rng, 1, 5, 6)}
    name = rng.choice(list(tensors))
    return pack(tensors | {name: tensors[name].to(getattr(torch, rng.choice(names)))})


def not_finite(rng: Random) -> bytes:
    tensors = {EMBEDS: draw(rng, 1, 5, 6), NULL_EMBEDS: draw(rng, 1, 5, 6), POOLED: draw(rng, 1, 7)}
    tensor = tensors[rng.choice(list(tensors))].view(-1)
    tensor[rng.randrange(len(tensor))] = rng.choice([float("nan"), float("inf"), float("-inf")])
    return pack(tensors)


def huge_header(rng: Random) -> bytes:
    content = own(rng)
    length = rng.choice([2**64 - 1, 2**63, 2**40, 100_000_001, len(content), rng.getrandbits(64) | 1 << 20])
    return struct.pack("<Q", length) + content[8:]


def odd_header(rng: Random) -> bytes:
    size = rng.choice([2**63, 2**64 - 1, 10**30, -1, 1.5, "5", None, [5]])
    entry = {"dtype": "F32", "shape": [1, 4, size], "data_offsets": [0, 64]}
    offsets = {"dtype": "F32", "shape": [1, 4, 4], "data_offsets": [rng.choice([-1, 64, 2**63]), 64]}
    unknown = {"dtype": rng.choice(["F31", "PICKLE", 7, "F4"]), "shape": [1, 4, 4], "data_offsets": [0, 64]}
    nested = b"[" * rng.randint(1, 50_000)
    metadata = {"__metadata__": rng.choice([7, [1], {"a": 1}, {"a": {"b": "c"}}]), EMBEDS: entry}
    header = rng.choice([{EMBEDS: entry}, {EMBEDS: offsets}, {EMBEDS: unknown}, nested, metadata, b"\xff\xfe{", [], 3])
    return with_header(header)


def odd_metadata(rng: Random) -> bytes:
    texts = [
        "[" * rng.randint(1, 9999),
        "{}",
        '{"a": [[]]}',
        "\x1b[2J",
        "\n\r\t",
        "null",
        "\u202e",
        "9" * 5000,
        "NaN",
        "",
    ]
    names = rng.sample(["config", "base_model", "shape", "step", "\x00", "\n", "fingerprint", "license"], 3)
    tensors = {EMBEDS: draw(rng, 1, 5, 6) * 10.0 ** rng.randint(-30, 37), NULL_EMBEDS: torch.zeros(1, 5, 6)}
    return pack(tensors, **{name: rng.choice(texts) for name in names})


def renamed_pickle(rng: Random) -> bytes:
    """Code, or torch's format before 1.6, which is pickles without a zip."""
    if rng.random() < 0.5:
        return torch_file(rng.choice([bomb(rng), [bomb(rng), torch.ones(3)]]), as_zip=False)
    return pickle.dumps(bomb(rng), protocol=rng.randint(0, 5))


def official_with_code(rng: Random) -> bytes:
    tensor = torch.ones(1, 77, 768)
    content = rng.choice([bomb(rng), [bomb(rng)], {"a": tensor, "b": bomb(rng)}, (tensor, bomb(rng))])
    if rng.random() < 0.5:
        return torch_file(content)
    return repack({PICKLE: pickle.dumps(bomb(rng), protocol=rng.randint(0, 5))})


def official_flipped_data(rng: Random) -> bytes:
    start = OFFICIAL.find(ENTRIES[DATA])
    return flip(rng, OFFICIAL, start, start + len(ENTRIES[DATA]), most=3)


def official_flipped_elsewhere(rng: Random) -> bytes:
    start = OFFICIAL.find(ENTRIES[DATA])
    before, end = rng.random() < 0.4, start + len(ENTRIES[DATA])
    return flip(rng, OFFICIAL, 0, start, 4) if before else flip(rng, OFFICIAL, end, len(OFFICIAL), 4)


def official_truncated(rng: Random) -> bytes:
    return OFFICIAL[: rng.randrange(len(OFFICIAL))]


def official_changed_pickle(rng: Random) -> bytes:
    """Other opcodes and arguments under a right checksum: other sizes, strides, offsets, classes, stacks."""
    content = bytearray(ENTRIES[PICKLE])
    for _ in range(rng.randint(1, 3)):
        content[rng.randrange(len(content))] = rng.choice([rng.randrange(256), *b"\x85\x86Rq.]}()cKMJ0N\x88"])
    return repack({PICKLE: bytes(content)})


def official_other_content(rng: Random) -> bytes:
    tensor = draw(rng, 1, 77, 768)
    spoilt = tensor.clone()
    spoilt.view(-1)[rng.randrange(spoilt.numel())] = rng.choice([float("nan"), float("inf")])
    sparse, meta = draw(rng, 1, 77, 768).relu().to_sparse(), torch.empty(1, 77, 768, device="meta")
    others = [
        tensor[0],
        tensor[:, :76],
        tensor.int(),
        tensor.to(torch.complex64),
        {"emb": tensor},
        [tensor],
        "text",
        3,
    ]
    return torch_file(rng.choice([*others, spoilt, sparse, meta, tensor.repeat(2, 1, 1), None]))


def official_zip_tricks(rng: Random) -> bytes:
    short = ENTRIES[DATA][: rng.randrange(len(ENTRIES[DATA]))]
    with_absurd_number = ENTRIES[PICKLE].replace(b"M\x00\xe7t", b"J\xff\xff\xff\x7ft")
    tricks = {
        "deflated": lambda: repack({}, zipfile.ZIP_DEFLATED),
        "deflate bomb": lambda: repack({"archive/more": bytes(10**7)}, zipfile.ZIP_DEFLATED),
        "short data": lambda: repack({DATA: short}),
        "absurd size of the data": lambda: repack({PICKLE: with_absurd_number}),
        "byte order": lambda: repack({"archive/byteorder": rng.choice([b"big", b"", b"x", b"\xff"])}),
        "path upwards": lambda: repack({"../../" + str(TRACE): b"x"}),
        "second folder": lambda: repack({"other/data.pkl": pickle.dumps(bomb(rng))}),
        "other version": lambda: repack({"archive/version": rng.choice([b"0", b"99999999999999999999", b"x", b""])}),
        "script": lambda: repack({"archive/constants.pkl": pickle.dumps(bomb(rng)), "archive/code/a.py": b"1"}),
        "no pickle": lambda: OFFICIAL.replace(b"data.pkl", b"data.pkk"),
        "encrypted": lambda: OFFICIAL.replace(
            b"PK\x01\x02\x00\x00\x00\x00\x00\x00", b"PK\x01\x02\x00\x00\x00\x00\x01\x00"
        ),
    }
    return tricks[rng.choice(list(tricks))]()


KINDS: dict[str, tuple[Callable[[Random], bytes], Outcome]] = {
    "bits flipped in the header": (flipped_header, "either"),
    "bits flipped in tensor data": (flipped_data, "refused"),
    "bytes overwritten anywhere": (overwritten, "either"),
    "truncated": (truncated, "refused"),
    "bytes appended": (appended, "refused"),
    "wrong keys": (wrong_keys, "refused"),
    "wrong shapes": (wrong_shapes, "refused"),
    "wrong dtypes": (wrong_dtypes, "refused"),
    "NaN or infinity": (not_finite, "refused"),
    "huge header length": (huge_header, "refused"),
    "odd header": (odd_header, "refused"),
    "odd metadata and magnitudes": (odd_metadata, "either"),
    "pickle without a zip": (renamed_pickle, "refused"),
    "official: code in the pickle": (official_with_code, "refused"),
    "official: bits flipped in tensor data": (official_flipped_data, "refused"),
    "official: bits flipped elsewhere": (official_flipped_elsewhere, "either"),
    "official: truncated": (official_truncated, "refused"),
    "official: pickle changed, checksum right": (official_changed_pickle, "either"),
    "official: other content": (official_other_content, "refused"),
    "official: zip tricks": (official_zip_tricks, "either"),
}
"""Kind -> how such a file is made, and what must become of every one."""
UNMUTATED: dict[str, Callable[[Random], bytes]] = {"own files": own, "official files": official}
