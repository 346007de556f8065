"""Negative embeddings on the hub: one repository holds one file and a card that tells how it was learned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reneg.intervals import interval, noises_each

HUB_FILE = "negative_embedding.safetensors"
BEFORE_AFTER = "before_after.png"
"""In an evaluation's folder: a row of pictures for each negative, from the same noises."""
CARD_ROWS = {
    "base_model": "Base model",
    "family": "Model family",
    "reward": "Reward",
    "monitor": "Monitor",
    "guidance_scale": "Guidance scale",
    "guidance_formula": "Guidance",
    "num_inference_steps": "Inference steps",
    "scheduler": "Scheduler",
    "num_prompts": "Learning prompts",
    "seed": "Seed",
    "step": "Step",
    "source": "Source",
    "merge_method": "Merged with",
    "merged_from": "Merged from",
    "reneg_version": "reneg",
    "sha256": "SHA-256 of the tensors",
}
"""Key of a file's metadata -> its label on the card."""
MEASURED = {"reward": "Reward", "monitor": "Monitor"}
"""What the metadata may hold `_before` and `_after` learning."""

CALL = "images = pipe(prompts, **negative.for_pipeline(pipe, num_prompts=len(prompts))).images"
_CALL_WITHOUT_TEXTS = """# This class refuses texts beside a negative embedding.
embeds, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False{more})
own = negative.for_pipeline(pipe, num_prompts=len(prompts))
images = pipe(prompt_embeds=embeds, prompt_attention_mask=mask, **own).images"""
CALLS = {
    "pixart": _CALL_WITHOUT_TEXTS.format(more=""),
    "sana": "import inspect\n\n"
    'instruction = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default\n'
    + _CALL_WITHOUT_TEXTS.format(more=", complex_human_instruction=instruction"),
}
"""Model family -> how its pipelines are called on the card, where it is not CALL."""


def download(repo_id: str, *, filename: str, revision: str | None) -> Path:
    """A file of a repository, from the hub or, offline, from what was downloaded before.

    Raises:
        ValueError: no such repository name.
        OSError: no such repository, revision or file, no access, or no network and no earlier download.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision))
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository; give owner/name, or load a file with load()") from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"{repo_id}: {filename} was not downloaded before, and the hub is not reached (HF_HUB_OFFLINE, or no "
            "network); go online once"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise OSError(f"{repo_id}: {filename} cannot be downloaded ({_first_line(error)})") from error


def upload(folder: Path, repo_id: str, *, private: bool, commit_message: str) -> str:
    """Make a repository, if there is none, and commit a folder to it; the commit's address.

    Raises:
        ValueError: no such repository name.
        OSError: no network, or no right to write there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository; give owner/name") from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise OSError(
            f"{repo_id} cannot be written ({_first_line(error)}); `hf auth login` gives the right to"
        ) from error
    return str(commit.commit_url)


def read_evaluation(folder: Path, sha256: str) -> str:
    """What `reneg evaluate` measured of a negative, as Markdown.

    Args:
        folder: of `reneg evaluate`; its before_after.png stands beside the text.
        sha256: of the negative's tensors, as results.json has it.

    Raises:
        ValueError: no evaluation is there, or not of this negative.
    """
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        names = [negative["name"] for negative in results["negatives"] if negative["sha256"] == sha256]
        overall, settings = results["overall"], results["settings"]
        if names and (folder / BEFORE_AFTER).is_file():
            rewards = overall["negatives"][names[0]]["rewards"]
            bases = [base for base in results["bases"] if base != names[0]]
            rows = [_measured_row(name, name in results["judges"], of, bases) for name, of in rewards.items()]
            head = ("", "mean", *(f"{what} {base}" for base in bases for what in ("difference from", "wins against")))
            noises = noises_each(settings["num_seeds"])
            told = (
                f"{overall['num_prompts']} prompts, {noises}, the same for every negative, "
                f"guidance {settings['guidance_scale']}, {settings['num_inference_steps']} steps; 95 % intervals over "
                "prompts. Nothing was learned from the judges."
            )
            everyone = ", ".join(negative["name"] for negative in results["negatives"])
            picture = f"![Pictures]({BEFORE_AFTER})\n\n*From the same noises, one row each: {_cell(everyone)}.*"
            return "\n\n".join((told, _table(head, rows), picture))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"--evaluation {folder} holds no finished evaluation ({_first_line(error)}); `reneg evaluate` makes one"
        ) from error
    raise ValueError(
        f"--evaluation {folder} has no results and pictures of this negative; name its file in "
        "`reneg evaluate --negatives`"
    )


def _measured_row(reward: str, judge: bool, of: dict, bases: Sequence[str]) -> tuple[str, ...]:
    """One reward's line of the card: the mean, then difference and wins against each base."""
    paired = [
        cell
        for base in bases
        for cell in (interval(of["difference"][base], sign=True), interval(of["win_rate"][base], percent=True))
    ]
    return (f"{reward} (judge)" if judge else reward, interval(of["mean"]), *paired)


def model_card(
    repo_id: str, metadata: Mapping[str, str], shape: tuple[int, int], *, license: str, evaluated: str | None = None
) -> str:
    """README.md of a repository: what it is, how to use it, how it was learned, what changed.

    Args:
        metadata: of the file.
        shape: (tokens, width).
        evaluated: of `read_evaluation`.
    """
    base = metadata.get("base_model", "unknown")
    front = {"license": license, "library_name": "diffusers", "tags": ["reneg", "negative-embedding"]}
    if base.count("/") == 1 and not base.startswith((".", "/")):  # a hub id, which the hub links
        front["base_model"] = base
    rows = [(label, metadata[key]) for key, label in CARD_ROWS.items() if key in metadata]
    sections = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items()) + "---",
        f"# {repo_id.rpartition('/')[2]}",
        f"A negative embedding of {shape[0]} tokens x {shape[1]} for {_cell(base)}, learned from a reward as in ReNeg "
        "([arXiv 2412.19637](https://arxiv.org/abs/2412.19637)). It takes the place of the negative prompt.",
        "```python\nfrom reneg import NegativeEmbedding\n\n"
        f'negative = NegativeEmbedding.from_pretrained("{repo_id}")\n'
        f"{CALLS.get(metadata.get('family', ''), CALL)}\n```",
        "## How it was made\n\n" + _table(("", ""), rows),
    ]
    measured = [
        (f"{label} ({metadata.get(key, 'unknown')})", metadata[f"{key}_before"], metadata[f"{key}_after"])
        for key, label in MEASURED.items()
        if f"{key}_before" in metadata and f"{key}_after" in metadata
    ]
    if measured:
        sections.append("## Measured while learning\n\n" + _table(("", "null text", "this embedding"), measured))
    if evaluated is not None:
        sections.insert(4, "## Measured\n\n" + evaluated)
    if "config" in metadata:
        sections.append("## Settings\n\n```json\n" + metadata["config"].replace("```", "") + "\n```")
    return "\n\n".join(sections) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A text out of a file, fit for a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
