"""Reading prompts from files and from the public sets."""

import csv
import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from reneg.prompt_sets import PROMPT_SETS, fetch, recognise, split_set_name

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".json", ".jsonl", ".tsv", ".csv")
PROMPT_FIELDS = ("prompt", "text", "prompt_en")
"""Fields of a record that may hold the prompt, whatever their case."""
GROUP_FIELDS = ("group", "category", "style", "dimension")
"""Fields that may name its group, or a list of groups."""
FORMS = "one prompt a line (.txt), a list or {group: list} (.json), or records with a field `prompt`"


def read_prompts(path: Path, *, flag: str = "--prompts") -> dict[str, list[str]]:
    """Group -> prompts of a file, or of a public set by name (`parti`, or some of its groups: `parti:Animals,Arts`).

    A `.txt` has one prompt a line; a `.json` a list, {group: list} or a list of records; `.jsonl`, `.tsv` and `.csv`
    hold records. A file of a public set is recognised by its content. Duplicates and damaged characters are logged.

    Raises:
        ValueError: no such file, set or group, another suffix, broken content, or no prompt; it names the flag.
    """
    named = split_set_name(str(path))
    if named is not None and not path.exists():
        file, chosen = fetch(named[0], flag=flag), named[1]
    else:
        file, chosen = path, []
    if not file.is_file():
        sets = ", ".join(PROMPT_SETS)
        raise ValueError(f"{flag} {path}: there is no such file; give one of {', '.join(SUFFIXES)}, or one of {sets}")
    try:
        content = file.read_bytes()
        groups = _parse(content.decode("utf-8-sig"), file)
    except (ValueError, csv.Error) as error:  # also broken UTF-8 and broken JSON
        raise ValueError(f"{flag} {path} cannot be read: {error}") from error
    groups = _strip(groups, path, flag)
    known = recognise(content)
    if known is not None and known.blocks:
        groups = _cut(groups[file.stem], known.blocks)
    _report(groups, path, flag)
    return _choose(groups, chosen, path, flag)


def is_public_set(path: Path | None) -> bool:
    """Whether a `--prompts` value names a public set, whose long prompts its publishers let the encoder cut off."""
    if path is None:
        return False
    if path.is_file():
        return recognise(path.read_bytes()) is not None
    return split_set_name(str(path)) is not None


def _parse(text: str, path: Path) -> Mapping[str, object]:
    """Group -> what should be a list of texts."""
    if path.suffix == ".txt":
        return {path.stem: text.splitlines()}
    if path.suffix == ".json":
        content = json.loads(text)
        if isinstance(content, list) and any(isinstance(item, dict) for item in content):
            return _records(content, path)
        return content if isinstance(content, dict) else {path.stem: content}
    if path.suffix == ".jsonl":
        return _records([json.loads(line) for line in text.split("\n") if line.strip()], path)
    if path.suffix == ".tsv":  # quotes are text there: PartiPrompts has prompts that begin with one
        return _records(list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)), path)
    if path.suffix == ".csv":
        return _records(list(csv.DictReader(text.splitlines(keepends=True), strict=True)), path)
    raise ValueError(f"the suffix is none of {', '.join(SUFFIXES)}")


def _records(records: list, path: Path) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for number, record in enumerate(records):
        fields = {str(key).lower(): value for key, value in record.items()} if isinstance(record, dict) else {}
        prompt = next((fields[name] for name in PROMPT_FIELDS if name in fields), None)
        if not isinstance(prompt, str):
            raise ValueError(f"record {number} has no text in any of the fields {', '.join(PROMPT_FIELDS)}")
        group = next((fields[name] for name in GROUP_FIELDS if fields.get(name)), path.stem)
        for one in group if isinstance(group, list) else [group]:
            groups.setdefault(str(one), []).append(prompt)
    return groups


def _strip(groups: Mapping[str, object], path: Path, flag: str) -> dict[str, list[str]]:
    """Without white space around prompts, empty prompts and empty groups."""
    found = {}
    for group, prompts in groups.items():
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"{flag} {path}: group {group!r} is not a list of texts")
        if kept := [prompt.strip() for prompt in prompts if prompt.strip()]:
            found[group] = kept
    if not found:
        raise ValueError(f"{flag} {path} holds no prompt; give {FORMS}")
    return found


def _cut(prompts: list[str], blocks: dict[str, int]) -> dict[str, list[str]]:
    ends = {group: sum(list(blocks.values())[: place + 1]) for place, group in enumerate(blocks)}
    return {group: prompts[end - blocks[group] : end] for group, end in ends.items()}


def _report(groups: dict[str, list[str]], path: Path, flag: str) -> None:
    """Log what is probably not meant: prompts given twice within a group, and characters lost in a conversion."""
    repeated = sum(count - 1 for prompts in groups.values() for count in Counter(prompts).values())
    damaged = sum("\ufffd" in prompt for prompts in groups.values() for prompt in prompts)
    if repeated:
        logger.warning("%s %s: %d prompts repeat another of their group; all are kept", flag, path, repeated)
    if damaged:
        logger.warning("%s %s: %d prompts hold U+FFFD, a character that was lost", flag, path, damaged)


def _choose(groups: dict[str, list[str]], chosen: list[str], path: Path, flag: str) -> dict[str, list[str]]:
    unknown = [group for group in chosen if group not in groups]
    if unknown:
        raise ValueError(f"{flag} {path}: there is no group {unknown[0]!r}; choose from {', '.join(groups)}")
    return {group: groups[group] for group in chosen} if chosen else groups
