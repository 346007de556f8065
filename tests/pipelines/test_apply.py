"""What `for_pipeline` refuses, warns of and fills in, and that no class of diffusers is forgotten."""

import importlib
import inspect
import pkgutil
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from pipelines.cases import CASES, UNTESTED
from pipelines.harness import file, noise, null_text
from pipelines.table import line as line_of
from tiny import MAX_TOKENS, WIDTH, tiny_pipeline

from reneg.negative import NegativeEmbedding
from reneg.pipelines import PIPELINES, REFUSED, find_row


def case_pipeline(name: str) -> tuple[Any, NegativeEmbedding]:
    case = next(case for case in CASES if case.name == name)
    return case.pipeline(), file(case.family, 1)


def fitting(pipe: Any) -> NegativeEmbedding:
    null = pipe.encode_prompt("", "cpu", 1, False)[0].detach()
    return NegativeEmbedding(noise(1, 1, MAX_TOKENS, WIDTH), null, {"base_model": "tiny"})


@pytest.mark.filterwarnings("ignore")  # of modules as they are imported
def test_no_class_of_diffusers_is_forgotten():
    classes: dict[str, type] = {}
    for found in pkgutil.walk_packages(diffusers.pipelines.__path__, "diffusers.pipelines."):
        try:
            module = importlib.import_module(found.name)
        except ImportError:  # helpers of packages that are not installed
            continue
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, diffusers.DiffusionPipeline):
                classes[name] = value
    takes = {
        name
        for name, cls in classes.items()
        if any(n.startswith("negative") and "embeds" in n for n in inspect.signature(cls.__call__).parameters)
    }
    takes = {name for name in takes if classes[name].__name__ == name}  # not once more under an older name
    assert len(takes) > 200
    assert takes - PIPELINES.keys() - REFUSED.keys() == set()
    assert PIPELINES.keys() & REFUSED.keys() == set()
    assert (PIPELINES.keys() | REFUSED.keys()) - classes.keys() == set()
    for name, row in PIPELINES.items():
        named = inspect.signature(classes[name].__call__).parameters
        others = [argument for argument, _ in row.other.arguments] if row.other else []
        wanted = {a for a in (row.embeds, row.pooled, row.mask, row.scale, *others) if a is not None}
        assert wanted <= named.keys(), name


def test_the_loaded_encoder_must_be_the_files():
    pipe = tiny_pipeline()
    negative = fitting(pipe)
    kwargs = negative.for_pipeline(pipe, num_prompts=2, num_images_per_prompt=3)
    assert kwargs.keys() == {"negative_prompt_embeds"}
    assert torch.equal(kwargs["negative_prompt_embeds"], torch.cat([negative.negative_prompt_embeds] * 2))
    foreign = replace(negative, null_prompt_embeds=noise(2, 1, MAX_TOKENS, WIDTH))
    with pytest.raises(ValueError, match="another text encoder than that of StableDiffusionPipeline"):
        foreign.for_pipeline(pipe)


def test_tokens_that_the_encoder_does_not_give_are_refused():
    pipe = tiny_pipeline()
    negative = fitting(pipe)
    null = negative.null_prompt_embeds
    assert null is not None
    short = NegativeEmbedding(negative.negative_prompt_embeds[:, :5], null[:, :5])
    with pytest.raises(ValueError, match=f"has 5 tokens, StableDiffusionPipeline reads {MAX_TOKENS}"):
        short.for_pipeline(pipe)


def test_dtype_of_the_denoiser():
    pipe = tiny_pipeline(torch.float64)
    kwargs = fitting(tiny_pipeline()).for_pipeline(pipe)
    assert kwargs["negative_prompt_embeds"].dtype == torch.float64


@pytest.mark.parametrize("count", ["num_prompts", "num_images_per_prompt"])
def test_counts_below_one(count: str):
    pipe, negative = case_pipeline("StableDiffusionPipeline")
    with pytest.raises(ValueError, match=f"{count} is 0; it must be at least 1"):
        negative.for_pipeline(pipe, **{count: 0})


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("StableDiffusionPipeline", 1.0, 1.1),
        ("FluxPipeline", None, 1.1),  # its default is off
        ("QwenImagePipeline", 1.0, None),
        ("ZImagePipeline", 0.0, 0.5),  # its guidance is cond + w (cond - neg)
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_warns_where_the_classes_own_guidance_is_off(name: str, off: float | None, on: float | None):
    pipe, negative = case_pipeline(name)
    with pytest.warns(UserWarning, match=f"guidance of {name} is off, so the negative embedding has no effect"):
        negative.for_pipeline(pipe, guidance_scale=off)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negative.for_pipeline(pipe, guidance_scale=on)


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("StableDiffusionPipeline", True),
        ("StableDiffusionXLPipeline", True),
        ("StableDiffusionUpscalePipeline", False),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_unet_that_takes_the_scale_turns_guidance_off_where_the_class_gives_it_one(name: str, warned: bool):
    pipe, negative = case_pipeline(name)
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        negative.for_pipeline(pipe)
    assert any("this checkpoint takes the guidance scale as an input" in str(w.message) for w in caught) == warned


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_classes_that_take_none_are_refused_with_the_reason(name: str):
    with pytest.raises(ValueError, match=f"{name} takes no negative embedding: ") as error:
        find_row(type(name, (), {})())
    assert REFUSED[name] in str(error.value) and "\n" not in str(error.value)


def test_classes_that_are_not_known():
    def takes(self: object, negative_prompt_embeds: object) -> None: ...

    def takes_none(self: object, prompt: str) -> None: ...

    with pytest.raises(ValueError, match="New is not in reneg's table"):
        find_row(type("New", (), {"__call__": takes})())
    with pytest.raises(ValueError, match="its __call__ has no negative argument"):
        find_row(type("Other", (), {"__call__": takes_none})())
    derived = type("Mine", (type("StableDiffusionPipeline", (), {}),), {})
    assert find_row(derived()) is PIPELINES["StableDiffusionPipeline"]


def test_a_class_that_mixes_up_several_prompts_gets_one():
    pipe, negative = case_pipeline("StableDiffusionPanoramaPipeline")
    with pytest.raises(
        ValueError, match="num_prompts is 2; StableDiffusionPanoramaPipeline takes the negative embedd"
    ):
        negative.for_pipeline(pipe, num_prompts=2)


def test_a_pooled_vector_that_the_file_lacks_is_asked_for():
    pipe, negative = case_pipeline("StableDiffusionXLPipeline")
    with pytest.raises(ValueError, match="needs negative_pooled_prompt_embeds, which the file does not hold"):
        replace(negative, negative_pooled_prompt_embeds=None).for_pipeline(pipe)


def test_a_pooled_vector_that_the_file_lacks_is_that_of_the_null_text():
    pipe, _ = case_pipeline("StableCascadePriorPipeline")
    null = null_text(pipe)
    negative = file(next(case for case in CASES if case.name == "StableCascadePriorPipeline").family, 1, null)
    kwargs = replace(negative, negative_pooled_prompt_embeds=None).for_pipeline(pipe, num_prompts=2)
    tokens = pipe.tokenizer("", padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = pipe.text_encoder(**tokens).text_embeds
    assert torch.equal(kwargs["negative_prompt_embeds_pooled"], expected.reshape(1, 1, -1).expand(2, 1, -1))


def test_longer_files_lengthen_the_prompts():
    pipe, negative = case_pipeline("LTXPipeline")
    assert "max_sequence_length" not in negative.for_pipeline(pipe)
    width = negative.negative_prompt_embeds.shape[2]
    longer = NegativeEmbedding(noise(1, 1, 130, width), noise(2, 1, 130, width))
    kwargs = longer.for_pipeline(pipe)
    assert kwargs["max_sequence_length"] == 130 == kwargs["negative_prompt_embeds"].shape[1]
    assert kwargs["negative_prompt_attention_mask"].sum() == 130  # a file without a mask was read whole


def test_files_are_filled_up_where_the_tokenizer_pads():
    pipe, negative = case_pipeline("LTX2Pipeline")
    kwargs = negative.for_pipeline(pipe)
    tokens = negative.negative_prompt_embeds.shape[1]
    assert torch.equal(kwargs["negative_prompt_embeds"][:, -tokens:], negative.negative_prompt_embeds)
    assert not kwargs["negative_prompt_embeds"][:, :-tokens].any()


def test_the_scale_of_the_sound_keeps_the_negative_branch():
    pipe, negative = case_pipeline("LTX2Pipeline")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negative.for_pipeline(pipe, guidance_scale=1.0)


def test_the_page_lists_every_class_as_it_is_now():
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if re.match(r"\| \w+Pipeline\w* \|", line)]
    now = [line_of(name, row, None).split("|")[1:5] for name, row in sorted(PIPELINES.items())]
    refused = [["", f" {name} ", f" {reason} ", ""] for name, reason in sorted(REFUSED.items())]
    assert [line.split("|")[1:5] for line in lines[: len(PIPELINES)]] == now
    assert [line.split("|") for line in lines[len(PIPELINES) :]] == refused
    unproven = {line.split("|")[1].strip() for line in lines if "by signature only" in line}
    assert unproven == UNTESTED.keys()
