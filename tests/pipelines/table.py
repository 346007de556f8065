"""docs/pipelines.md, from what the tests measured."""

from pathlib import Path
from typing import Any

import diffusers
from pipelines.cases import CASES, UNTESTED

from reneg.files import write_atomically
from reneg.pipelines import PIPELINES, REFUSED, PipelineRow

HEAD = """# Pipelines that take a negative embedding

`NegativeEmbedding.for_pipeline(pipe, num_prompts=…, num_images_per_prompt=…, guidance_scale=…)` gives the arguments
below. This page is written by `pytest tests/pipelines --pipelines-table docs/pipelines.md` with diffusers {version};
do not edit it.

Each class that could be built here ran on tiny random weights on a CPU, in float32, with ready-made prompt embeddings
and without text encoders, except where the class asks them for more. "Proven" says for how many prompts at once:

- the output equals that of arguments written out by hand, to the last bit;
- another file changes the output (column "effect": largest difference, relative to the largest value);
- the prompts in one call equal a call for each (column "one call or three": largest difference, relative likewise);
- at the scale of column "off at", another file changes nothing, to the last bit;
- where the class repeats a prompt's row itself, two pictures of a prompt in one call equal two prompts in one call.

"By signature only" means that the arguments were read in the class's source, and that it did not run here.

"Off at" is the scale at which the class's own guidance is off, so that no negative embedding has any effect;
`for_pipeline` warns there. It is "–" where a second scale, that of the sound, keeps the negative branch. What a class
needs and a file does not hold (a pooled vector, tokens of a second text encoder) is taken from the pipeline's own
encoding of "". Classes that resize every picture to about a megapixel resize it to 32x32 in the tests.

| class | arguments | guided by | off at | proven | effect | one call or three | two pictures |
|---|---|---|---|---|---|---|---|
"""
REFUSED_HEAD = """
## Classes that are refused

| class | why |
|---|---|
"""


def write_table(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Every class of reneg's table and every refusal, as markdown."""
    text = HEAD.format(version=diffusers.__version__)
    text += "".join(line(name, row, results.get(name)) for name, row in sorted(PIPELINES.items()))
    text += REFUSED_HEAD + "".join(f"| {name} | {reason} |\n" for name, reason in sorted(REFUSED.items()))
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def line(name: str, row: PipelineRow, measured: dict[str, Any] | None) -> str:
    arguments = [row.embeds, row.pooled, row.mask]
    arguments += [argument for argument, _ in row.other.arguments] if row.other else []
    arguments += ["max_sequence_length, for longer files"] if row.length == "padded" else []
    shown = "<br>".join(argument for argument in arguments if argument)
    if row.as_list:
        shown += " (a list of lists)" if row.parts else " (a list)"
    guided = row.scale or "the guider's guidance_scale"
    off = "–" if row.off is None else f"{row.off:g}"
    start = f"| {name} | {shown} | {guided} | {off} |"
    if measured is None:
        slow = {case.name for case in CASES if case.slow}
        reason = UNTESTED.get(name) or ("its test is slow and was left out" if name in slow else "not run")
        return f"{start} by signature only: {reason} | | | |\n"
    count = measured["prompts"]
    proven = f"{count} prompts" if count > 1 else f"1 prompt: {measured['one_prompt']}"
    images = "" if measured["images"] is None else f"{measured['images']:.0e}"
    batch = f"{measured['batch']:.0e}" if count > 1 else ""
    return f"{start} {proven} | {measured['effect']:.2g} | {batch} | {images} |\n"
