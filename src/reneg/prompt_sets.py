"""The public prompt sets by name: where each lies, which bytes it has, and how many prompts are in it.

None is shipped. A set is downloaded once into the cache, and taken only with the bytes whose prompts were counted.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from reneg.files import write_atomically

RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class PromptSet:
    """One public set: a file of a public repository."""

    repository: str
    """GitHub's owner/name."""
    path: str
    """Of the file in it."""
    sha256: str
    """Of the file: it pins the version, whatever the repository holds later."""
    num_prompts: int
    """Records of the file."""
    blocks: dict[str, int] = field(default_factory=dict)
    """Group -> consecutive records, for a file that names no groups itself."""


PROMPT_SETS: dict[str, PromptSet] = {
    "refl": PromptSet(
        "THUDM/ImageReward",
        "data/refl_data.json",
        "47cc5f5c0faa36167c5bd10cdc3aee0b1072147b44d3ae18f77bd98f377ecbb8",
        10_000,
    ),
    "hpsv2": PromptSet(
        "AIDC-AI/Diffusion-SDPO",
        "prompts/hpsv2.json",
        "417a2ce00b3307780402c1d27528a0e41ed26651384687bbf3aa06c4c7e559fd",
        3_200,
        {"anime": 800, "concept-art": 800, "paintings": 800, "photo": 800},
    ),
    "parti": PromptSet(
        "google-research/parti",
        "PartiPrompts.tsv",
        "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
        1_632,
    ),
    "drawbench": PromptSet(
        "openai/dalle3-eval-samples",
        "prompts/drawbench.txt",
        "3d4f4b2db7520208ee056d470202c07fd77766b96d133ea9f4ab00a323381e9a",
        200,
    ),
    "vbench": PromptSet(
        "Vchitect/VBench",
        "vbench/VBench_full_info.json",
        "5dd2de80ee43cda750b2b72ea7023657c0b90d3702041c7e4608c65dbe50dccd",
        946,
    ),
}
"""Name -> the set: ReFL's to learn from, the others to evaluate on."""


def split_set_name(text: str) -> tuple[str, list[str]] | None:
    """(set, groups) of a `--prompts` value such as `hpsv2` or `hpsv2:anime,photo`; None for anything else.

    Raises:
        ValueError: a set's name with nothing behind its colon.
    """
    name, colon, groups = text.partition(":")
    if name not in PROMPT_SETS:
        return None
    chosen = [group.strip() for group in groups.split(",") if group.strip()]
    if colon and not chosen:
        raise ValueError(f"--prompts {text}: no group is named behind the colon; write SET or SET:GROUP,GROUP")
    return name, chosen


def recognise(content: bytes) -> PromptSet | None:
    """The set whose file has these bytes, under whatever name they are stored."""
    digest = hashlib.sha256(content).hexdigest()
    return next((known for known in PROMPT_SETS.values() if known.sha256 == digest), None)


def cache_folder() -> Path:
    """Where downloaded sets are kept: `$XDG_CACHE_HOME/reneg/prompts`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reneg" / "prompts"


def fetch(name: str, *, flag: str = "--prompts") -> Path:
    """The file of a set: from the cache, or downloaded into it.

    Raises:
        ValueError: it cannot be downloaded, or is another version; in one line.
    """
    known = PROMPT_SETS[name]
    path = cache_folder() / f"{name}{Path(known.path).suffix}"
    if path.is_file() and recognise(path.read_bytes()) is known:
        return path
    address = f"{RAW}/{known.repository}/HEAD/{known.path}"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "on", "yes", "true"):
        raise ValueError(f"{flag} {name}: HF_HUB_OFFLINE is set; give the path of a copy of {address} instead")
    try:
        with urlopen(address, timeout=30) as answer:
            content = answer.read()
    except (URLError, OSError) as error:
        raise ValueError(f"{flag} {name}: {address} cannot be read ({error}); give the path of a copy") from error
    if recognise(content) is not known:
        raise ValueError(f"{flag} {name}: {address} is not the version whose prompts were counted; give a path")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path
