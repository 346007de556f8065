"""The report of an evaluation: figures, and pictures from the same noise side by side."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import Comparison
from reneg.evaluation.store import Shards
from reneg.evaluation.summary import Scores
from reneg.evaluation.tables import COST_TEXT, by_group, cost_rows, mean_rows, paired_rows
from reneg.files import write_atomically
from reneg.hub import BEFORE_AFTER
from reneg.intervals import noises_each
from reneg.report import Section, labelled_grid, labelled_rows, to_images, write_report

REPORT = "report.html"
NUM_ROWS = 24
"""Prompts shown, at least, spread evenly over each group."""
MOST_ROWS = 96
"""Of those, where there are many groups: the page must open."""
WIDTH = 950
"""Pixels of the page for pictures side by side."""
NUM_COLUMNS = 8
"""Prompts of before_after.png, at most."""
NUM_EXTREMES = 6
"""Largest gains, and as many largest losses, of each negative."""
SIDE = 128
"""Pixels to which small pictures are enlarged, by whole factors; large ones are reduced to twice that."""


def write_page(
    comparison: Comparison, config: EvaluateConfig, scores: Scores, stores: dict[str, Shards], results: dict
) -> None:
    """Write report.html and before_after.png into the output folder."""
    names = [contender.name for contender in comparison.contenders]
    overall = results["overall"]
    intro = (
        f"{overall['num_prompts']} prompts, {noises_each(config.num_seeds)}, the same for every negative: "
        f"{', '.join(names)}. Brackets hold 95 % intervals from a bootstrap that resamples prompts with all their "
        f"noises. A tie counts as half a win. Judges are rewards that nothing was trained on or picked by."
    )
    if comparison.real:
        intro += f" Beside them stand {len(comparison.real.prompts)} real clean pictures of evaluation prompts."
    sections = [
        Section("Mean scores", "\n\n".join([intro, *results["notes"]]), mean_rows(results, overall)),
        Section("Paired, on the same prompts and noises", table=paired_rows(results, overall)),
        Section("Cost", COST_TEXT, table=cost_rows(results)),
        _spread(comparison, config, scores, stores),
        *_extremes(comparison, config, scores, stores, results),
    ]
    if len(comparison.groups) > 1:
        sections.append(Section("Mean scores by group (prompts)", table=by_group(results, mean_rows)))
        sections.append(Section("Paired by group (prompts)", table=by_group(results, paired_rows)))
    facts = {**results["settings"], **results["work"], **results["versions"]}
    facts |= {f"negative: {n['name']}": f"{n['value']} ({n['kind']})" for n in results["negatives"]}
    sections.append(Section("Settings", table=[{"setting": k, "value": str(v)} for k, v in facts.items()]))
    write_report(config.output_dir / REPORT, "Negatives compared", sections)
    picture = _before_after(comparison, config, stores)
    write_atomically(config.output_dir / BEFORE_AFTER, lambda path: picture.save(path, "PNG", optimize=True))


def _before_after(comparison: Comparison, config: EvaluateConfig, stores: dict[str, Shards]) -> Image.Image:
    """A row for each negative: the first noise of prompts spread evenly over all, chosen by their place alone."""
    count = min(NUM_COLUMNS, len(comparison.prompts))
    chosen = [(2 * n + 1) * len(comparison.prompts) // (2 * count) * config.num_seeds for n in range(count)]
    rows = {name: to_images(store.read(chosen)) for name, store in stores.items()}
    return labelled_rows({name: shown(images) for name, images in rows.items()}, _scale(next(iter(rows.values()))))


def _spread(comparison: Comparison, config: EvaluateConfig, scores: Scores, stores: dict[str, Shards]) -> Section:
    """The first noise of prompts spread over all groups: chosen by their place alone, so neither by luck nor taste."""
    share = -(-NUM_ROWS // len(comparison.groups))
    chosen, first = [], 0
    for prompts in comparison.groups.values():
        count = min(share, len(prompts))
        chosen += [first + number * len(prompts) // count for number in range(count)]
        first += len(prompts)
    text = "Chosen by their place in the list alone. Each row has one noise; scores are in the order of the pictures."
    everyone = range(len(comparison.contenders))
    images = [_row(comparison, config, scores, stores, everyone, prompt, 0) for prompt in chosen[:MOST_ROWS]]
    return Section("Pictures", text, images=images)


def _extremes(
    comparison: Comparison, config: EvaluateConfig, scores: Scores, stores: dict[str, Shards], results: dict
) -> list[Section]:
    """Where each negative gains and loses most against the first, by the first judge: successes and failures."""
    names = [contender.name for contender in comparison.contenders]
    judge = (results["judges"] or results["rewards"])[0]
    r = results["rewards"].index(judge)
    sections = []
    for n in range(1, len(names)):
        gain = (scores.rewards[n, r] - scores.rewards[0, r]).ravel()
        order = np.argsort(gain, kind="stable")
        count = min(NUM_EXTREMES, len(order) // 2)
        for title, numbers in (("gains", order[::-1][:count]), ("losses", order[:count])):
            places = [divmod(int(number), config.num_seeds) for number in numbers]
            sections.append(
                Section(
                    f"Largest {title} of {names[n]} against {names[0]}",
                    f"By {judge}. Each row has one noise.",
                    images=[_row(comparison, config, scores, stores, (0, n), *place) for place in places],
                )
            )
    return sections


def _row(
    comparison: Comparison,
    config: EvaluateConfig,
    scores: Scores,
    stores: dict[str, Shards],
    places: Sequence[int],
    prompt: int,
    noise: int,
) -> tuple[str, Image.Image]:
    """(caption, the pictures of some contenders, by their places, from one noise)."""
    names = [comparison.contenders[n].name for n in places]
    number = prompt * config.num_seeds + noise
    images = to_images(np.concatenate([stores[name].read([number]) for name in names]))
    # One line for each reward, in the order of the pictures.
    told = [
        f"{reward.name} " + " · ".join(f"{scores.rewards[n, r, prompt, noise]:.2f}" for n in places)
        for r, reward in enumerate(comparison.rewards)
    ]
    caption = f"“{comparison.prompts[prompt]}” (noise {noise}) — " + "; ".join(told)
    return caption, labelled_grid(shown(images), names, WIDTH, _scale(images))


def shown(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
    """Pictures, large ones reduced."""
    side = max(images.shape[-2:])
    if side <= 2 * SIDE:
        return images
    return F.interpolate(images, scale_factor=2 * SIDE / side, mode="bicubic", antialias=True).clamp(0, 1)


def _scale(images: Float[Tensor, "b 3 H W"]) -> int:
    """The factor that enlarges small pictures."""
    return max(1, SIDE // max(images.shape[-2:]))
