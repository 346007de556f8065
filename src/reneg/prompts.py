"""Reading prompts from files."""

import json
from pathlib import Path


def read_prompts(path: Path, *, flag: str = "--prompts") -> dict[str, list[str]]:
    """Group -> prompts of a file: `.txt` has one prompt a line (one group), `.json` a list or {group: list}.

    Raises:
        ValueError: no such file, another suffix, broken content, or no prompt in it; the message names the flag.
    """
    if not path.is_file():
        raise ValueError(f"{flag} {path}: there is no such file; give a .txt with one prompt a line, or a .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            groups = {path.stem: text.splitlines()}
        elif path.suffix == ".json":
            content = json.loads(text)
            groups = content if isinstance(content, dict) else {path.stem: content}
        else:
            raise ValueError("the suffix is neither .txt nor .json")
    except ValueError as error:  # also broken UTF-8 and broken JSON
        raise ValueError(f"{flag} {path} cannot be read: {error}") from error
    for group, prompts in groups.items():
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"{flag} {path}: group {group!r} is not a list of texts")
    groups = {group: [prompt.strip() for prompt in prompts if prompt.strip()] for group, prompts in groups.items()}
    groups = {group: prompts for group, prompts in groups.items() if prompts}
    if not groups:
        raise ValueError(f"{flag} {path} holds no prompt; give one prompt a line")
    return groups
