"""`for_pipeline` on a tiny pipeline of every class that can be built here."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pipelines.cases import CASES, UNTESTED
from pipelines.harness import Case, file, null_text, take

from reneg.negative import NegativeEmbedding
from reneg.pipelines import PIPELINES

pytestmark = [  # of the libraries, about themselves
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    pytest.mark.filterwarnings("ignore:Default grid_sample"),
]
SCALE = 3.0
IMAGE_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
FLOAT_NOISE = 1e-7
"""Below this, relative to the largest value, a difference is rounding, whatever the class."""
NOISE = 2e-5
"""What the order of sums may change, relative to the largest value."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case.slow else [], id=case.name) for case in CASES]
)
def test_class(case: Case, record: Callable[..., None]):
    pipe = case.pipeline()
    count = 1 if case.one_prompt else 3
    null = null_text(pipe)
    negative, other = file(case.family, 1, null), file(case.family, 2, null)

    everything = case.call(pipe, range(count), negative.for_pipeline(pipe, num_prompts=count, guidance_scale=SCALE))
    size = float(everything.abs().max())
    assert everything.isfinite().all() and size > 0
    by_hand = case.call(pipe, range(count), case.family.hand_made(negative, count) | case.family.filled(pipe, count))
    assert torch.equal(everything, by_hand)

    singles = [
        case.call(pipe, range(i, i + 1), negative.for_pipeline(pipe, guidance_scale=SCALE)) for i in range(count)
    ]
    batch = float((everything - torch.cat(singles).reshape(everything.shape)).abs().max()) / size
    assert batch <= NOISE

    changed = case.call(pipe, range(1), other.for_pipeline(pipe, guidance_scale=SCALE))
    effect = float((singles[0] - changed).abs().max()) / size
    assert effect > 100 * max(batch, FLOAT_NOISE)
    assert not without_guidance(case, pipe, negative, other)
    assert row_is_kept(case, pipe, negative)
    images = two_images(case, pipe, negative)
    assert images is None or images <= NOISE
    measured = {"batch": batch, "effect": effect, "images": images}
    record(case.name, prompts=count, one_prompt=case.one_prompt, **measured)


def without_guidance(case: Case, pipe: Any, *files: NegativeEmbedding) -> bool:
    """Whether files still differ at the scale where the table says that guidance is off, for one prompt."""
    row = PIPELINES[case.name]
    if row.scale is None or row.off is None or not case.runs_without_guidance:  # a guider's scale is no argument
        return False
    outputs = []
    for negative in files:
        with pytest.warns(UserWarning, match="is off, so the negative embedding has no effect"):
            arguments = negative.for_pipeline(pipe, guidance_scale=row.off)
        outputs.append(case.call(pipe, range(1), {**arguments, row.scale: row.off}))
    return not torch.equal(outputs[0], outputs[1])


def row_is_kept(case: Case, pipe: Any, negative: NegativeEmbedding) -> bool:
    """Whether a class that wants a row for each picture gives a row back as it got it when two pictures are wanted.

    Asked of the class's own `encode_prompt`; True where that cannot be asked.
    """
    row = PIPELINES[case.name]
    method = getattr(pipe, "encode_prompt", None)
    if method is None or row.per_image == (row.embeds in row.per_image_exceptions):
        return True
    named = inspect.signature(method).parameters
    pool = {**case.family.arguments(3), **case.arguments}
    given = case.family.hand_made(negative, 1) | case.family.filled(pipe, 1)
    if row.embeds not in named:  # each branch is encoded by itself
        pool, given = {name.removeprefix("negative_"): value for name, value in given.items()}, {}
    chosen: dict[str, Any] = {name: None for name in named}
    chosen |= {"device": torch.device("cpu")} | dict.fromkeys(IMAGE_COUNTS, 2)
    chosen |= {name: take(value, range(1)) for name, value in pool.items() if "embeds" in name or "mask" in name}
    chosen |= given | {"do_classifier_free_guidance": True}
    returned = method(
        **{n: chosen[n] for n, p in named.items() if chosen[n] is not None or p.default is inspect.Parameter.empty}
    )
    given_row = case.family.hand_made(negative, 1)[row.embeds]
    return any(isinstance(tensor, torch.Tensor) and torch.equal(tensor, given_row) for tensor in returned)


def two_images(case: Case, pipe: Any, negative: NegativeEmbedding) -> float | None:
    """Largest relative difference between two pictures of a prompt and two prompts that are the same.

    None for classes that want a row for each picture: they repeat no ready-made prompt embedding either, so this
    cannot be asked without their text encoders.
    """
    named = inspect.signature(type(pipe).__call__).parameters
    images = next((name for name in IMAGE_COUNTS if name in named), None)
    if images is None or case.one_prompt or case.family.per_image or not case.several_images:
        return None
    one = case.call_twice(
        pipe, negative.for_pipeline(pipe, num_images_per_prompt=2, guidance_scale=SCALE), {images: 2}
    )
    two = case.call_twice(pipe, negative.for_pipeline(pipe, num_prompts=2, guidance_scale=SCALE), {})
    return float((one - two).abs().max() / two.abs().max())


def test_every_class_has_a_case_or_a_reason():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert not set(names) & UNTESTED.keys()
    assert PIPELINES.keys() == set(names) | UNTESTED.keys()
