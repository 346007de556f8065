"""The pictures and the page that a learning run leaves behind."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.files import write_atomically
from reneg.metrics import Row
from reneg.report import Section, image_grid, plot_lines, write_report

SMOOTHING = 10
"""Steps of the running mean over the training reward, which is of other prompts and noises at each step."""


def write_samples(
    path: Path, before: Float[Tensor, "b 3 H W"], after: Float[Tensor, "b 3 H W"], scale: int = 2
) -> None:
    """Write a PNG of two rows: the null text's pictures, and below each the same noise with the embedding."""
    grid = image_grid(torch.cat([before, after]), columns=len(before), scale=scale)
    write_atomically(path, lambda temporary: grid.save(temporary, "PNG"))


def write_learning_report(
    path: Path,
    rows: Sequence[Row],
    step: int,
    facts: dict[str, str],
    settings: dict[str, str],
    prompts: Sequence[str],
    before: Float[Tensor, "b 3 H W"],
    after: Float[Tensor, "b 3 H W"],
) -> None:
    """Write `report.html`.

    Args:
        rows: of metrics.jsonl.
        step: whose state is the run's result.
        facts: about the result.
        settings: resolved, as flag -> value.
        prompts: of the pictures, one each.
        before: with the null text, before learning.
        after: with the result, from the same noises.
    """
    updates = [row for row in rows if row["kind"] == "update"]
    looks = [row for row in rows if row["kind"] == "validation"]
    scale = max(1, 128 // before.shape[-1])
    captions = "\n\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 1))
    pair = image_grid(torch.cat([before, after]), columns=len(before), scale=scale)
    sections = [
        Section(
            "Result",
            "Means over fixed learning prompts, two fixed noises each, fully sampled. What the result is worth is "
            "decided by reneg evaluate, on other prompts and by rewards that learning never saw.",
            table=_comparison(looks, step),
        ),
        Section(
            "Pictures",
            f"Above the null text, before learning, below the result of step {step}, from the same noises. "
            "From left to right:\n\n" + captions,
            images=[("The null text above, what was learned below", pair)],
        ),
        *_reward_sections(updates),
        *_look_sections(looks),
        *_update_sections(updates),
        Section("The file", table=_table(facts, "fact")),
        Section("Settings", table=_table(settings, "setting")),
    ]
    write_report(path, "Learning from a reward", sections)


def _comparison(looks: Sequence[Row], step: int) -> list[dict[str, str]]:
    names = {step: f"learned, step {step}", 0: "null text"}
    chosen = [row for row in looks if row["step"] in (0, step) or row is looks[-1]]
    measures = ("monitor", "reward", *_parts(looks), "saturation", "clipped", "diversity")
    return [
        {"": names.get(int(row["step"]), f"last, step {row['step']}")}
        | {measure: f"{float(row[measure]):.4f}" for measure in measures if measure in row}
        for row in chosen
    ]


def _parts(looks: Sequence[Row]) -> list[str]:
    """Columns of a mixture's parts."""
    return [name for name in looks[0] if name.startswith("reward/")] if looks else []


def _reward_sections(updates: Sequence[Row]) -> list[Section]:
    """Nothing for a method that learns from pairs."""
    if not updates or "reward_mean" not in updates[0]:
        return []
    note = (
        f"Mean reward of the pictures of each step, and its running mean over {min(SMOOTHING, len(updates))} steps. "
        "Each step has other prompts and noises, so single values scatter."
    )
    return [Section("Training reward", note, figure_svg=_reward_curve(updates))]


def _reward_curve(updates: Sequence[Row]) -> str:
    points = _points(updates, "reward_mean")
    smooth = []
    for end in range(1, len(points) + 1):
        window = points[max(0, end - SMOOTHING) : end]
        smooth.append((points[end - 1][0], sum(value for _, value in window) / len(window)))
    return plot_lines({"each step": points, "running mean": smooth}, "step", "reward")


def _look_sections(looks: Sequence[Row]) -> list[Section]:
    sections = []
    if looks and "monitor" in looks[0]:
        note = "Mean of the monitor's reward, which is not trained on and picks the best state."
        figure = plot_lines({"monitor": _points(looks, "monitor")}, "step", "monitor")
        sections.append(Section("Monitor", note, figure_svg=figure))
    figure = plot_lines({"reward": _points(looks, "reward")}, "step", "reward")
    sections.append(Section("Training reward of finished pictures", figure_svg=figure))
    note = "Mean of one part of the mixture, in its own units."
    for key in _parts(looks):
        figure = plot_lines({key: _points(looks, key)}, "step", key.removeprefix("reward/"))
        sections.append(Section(f"Part of the reward: {key.removeprefix('reward/')}", note, figure_svg=figure))
    names = {"saturation": "saturation", "clipped": "share of clipped values", "diversity": "diversity"}
    figure = plot_lines({label: _points(looks, key) for key, label in names.items()}, "step", "")
    note = (
        "Signs of reward hacking: colours that run to the edge of what can be shown, and pictures of different noises "
        "that grow alike. Diversity is the root-mean-square distance between the two pictures of a prompt."
    )
    return [*sections, Section("Saturation and diversity", note, figure_svg=figure)]


def _update_sections(updates: Sequence[Row]) -> list[Section]:
    names = {
        "distance": ("Distance from the start", "relative to its norm"),
        "grad_norm": ("Gradient norm", "norm"),
        "learning_rate": ("Learning rate", "rate"),
        "loss": ("Loss", "loss"),
        "accuracy": ("Pairs told apart as they should be", "share"),
        "clip_fraction": ("Importance ratios that were clipped", "share"),
    }
    return [
        Section(title, figure_svg=plot_lines({title: _points(updates, key)}, "step", label))
        for key, (title, label) in names.items()
        if updates and key in updates[0]
    ]


def _points(rows: Sequence[Row], key: str) -> list[tuple[int | float, float]]:
    return [(int(row["step"]), float(row[key])) for row in rows]


def _table(facts: dict[str, str], label: str) -> list[dict[str, str]]:
    return [{label: name, "value": value} for name, value in facts.items()]
