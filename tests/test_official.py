"""The official ReNeg files: recognised, completed, converted; a pickle with code is refused and never run."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
from tiny import tiny_pipeline
from tiny_pixart import SQUARE, tiny_pixart
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from reneg.cli import main
from reneg.negative import NegativeEmbedding, describe

LABELS = ("mean / std", "min / max", "token norms", "rank (to 0.001)", "first values")
COSINES = "mean cosine of tokens 1 and on"
# What facts/rewards.md has for each: the LABELS, the norm, the range of the tokens' stds, COSINES
OFFICIAL = {
    "sd1.4": (
        ("-0.114503 / 1.025454", "-24.95672 / 29.79343", "28.548 (26.944 at 76, 40.222 at 0)", "44"),
        *("-0.986597, -0.319426, -0.137213", 250.9167, (0.964, 1.449), (0.8388, 0.10)),
    ),
    "sd1.5": (
        ("-0.105774 / 1.009601", "-25.33387 / 29.79192", "28.084 (26.979 at 2, 40.452 at 0)", "43"),
        *("-0.594999, 0.070555, -0.142146", 246.8554, (0.966, 1.458), (0.8405, 0.10)),
    ),
    "sd2.1": (
        ("-0.087435 / 0.944504", "-4.93618 / 11.05369", "30.268 (18.427 at 0, 37.316 at 8)", "75"),
        *("-0.365936, -0.730808, 0.157500", 266.3478, (0.553, 1.153), (0.7363, 0.0006)),
    ),
    "pixart-alpha": (
        ("-0.000064 / 0.056248", "-0.25406 / 2.43418", "3.599 (2.707 at 0, 3.606 at 1)", "2"),
        *("0.000447, -0.015344, -0.009045", 39.4339, (0.0423, 0.0564), (1.0, 0.212)),
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_convert_and_have_the_published_statistics(shared_data: Path, tmp_path: Path, name: str):
    path, output = shared_data / "AMD-AIG-AIMA+ReNeg" / f"{name}_reneg_emb.bin", tmp_path / "x.safetensors"
    assert main(["convert", str(path), str(output)]) == 0
    raw, loaded = torch.load(path, weights_only=True), NegativeEmbedding.load(output)
    assert torch.equal(loaded.negative_prompt_embeds, raw)
    facts = describe(loaded)
    exact, first, norm, stds, cosines = OFFICIAL[name]
    assert tuple(facts[label] for label in LABELS) == (*exact, first)
    assert float(facts["norm"]) == pytest.approx(norm, rel=2e-5)  # the published one is summed in float32
    assert [float(text) for text in facts["token stds"].split(" to ")] == pytest.approx(stds, abs=6e-4)
    assert [float(text) for text in facts[COSINES].split(", with token 0 ")] == pytest.approx(cosines, abs=2e-3)
    assert facts["encoder"].startswith("unproven")
    mask = loaded.negative_prompt_attention_mask
    assert (mask is None) == (name != "pixart-alpha")
    assert mask is None or mask[0].tolist() == [1.0] + [0.0] * 119


def test_the_two_files_of_stable_diffusion_1_point_the_same_way(shared_data: Path):
    folder = shared_data / "AMD-AIG-AIMA+ReNeg"
    a, b = (
        NegativeEmbedding.load(folder / f"{name}_reneg_emb.bin").negative_prompt_embeds for name in ("sd1.4", "sd1.5")
    )
    assert torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item() == pytest.approx(
        0.920612, abs=1e-6
    )
    assert (a - b).norm().item() == pytest.approx(99.25, abs=5e-3)


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def wide_stable_diffusion(width: int) -> StableDiffusionPipeline:
    """A tiny denoiser that reads 77 tokens of a real model's width, and a text encoder that gives them."""
    parts = tiny_pipeline().components
    text = parts["text_encoder"].config.to_dict()
    text |= {"hidden_size": width, "num_hidden_layers": 1, "max_position_embeddings": 77}
    unet = dict(parts["unet"].config) | {"cross_attention_dim": width}
    parts |= {
        "text_encoder": seeded(lambda: CLIPTextModel(CLIPTextConfig(**text))),
        "unet": seeded(lambda: UNet2DConditionModel.from_config(unet)),
    }
    parts["tokenizer"].model_max_length = 77
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def wide_pixart(width: int) -> PixArtAlphaPipeline:
    """A tiny transformer that reads tokens of T5-XXL's width, and a T5 of one layer that gives them."""
    parts = tiny_pixart().components
    text = parts["text_encoder"].config.to_dict() | {"d_model": width, "num_layers": 1}
    transformer = dict(parts["transformer"].config) | {"caption_channels": width}
    parts |= {
        "text_encoder": seeded(lambda: T5EncoderModel(T5Config(**text))),
        "transformer": seeded(lambda: PixArtTransformer2DModel.from_config(transformer)),
    }
    return PixArtAlphaPipeline(**parts)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_run_in_pipelines_of_their_width(
    shared_data: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    """Two prompts through the converted file: as with arguments by hand, as one by one, and not as without it."""
    path, output = shared_data / "AMD-AIG-AIMA+ReNeg" / f"{name}_reneg_emb.bin", tmp_path / "x.safetensors"
    assert main(["convert", str(path), str(output)]) == 0
    negative, raw = NegativeEmbedding.load(output), torch.load(path, weights_only=True)
    masked, width, prompts = name == "pixart-alpha", raw.shape[2], ["a cat", "a red dog"]
    pipe: Any = wide_pixart(width) if masked else wide_stable_diffusion(width)
    pipe.set_progress_bar_config(disable=True)
    size = SQUARE if masked else {}

    def run(prompts: list[str], seeds: Sequence[int], **negatives: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given: dict[str, Any] = {"prompt": prompts}
        if masked:  # PixArt takes no text beside a negative embedding
            embeds, mask, _, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
            given = {"prompt_embeds": embeds, "prompt_attention_mask": mask}
        return pipe(
            **given,
            guidance_scale=7.5,
            num_inference_steps=2,
            generator=generators,
            output_type="pt",
            **size,
            **negatives,
        ).images

    given = negative.for_pipeline(pipe, num_prompts=2)
    assert "the encoder of" in caplog.text and "is unproven" in caplog.text
    by_hand: dict[str, Tensor | None] = {"negative_prompt_embeds": raw.repeat(2, 1, 1)}
    if masked:
        mask = torch.tensor([[1] + [0] * 119]).repeat(2, 1)
        by_hand |= {"negative_prompt_attention_mask": mask, "negative_prompt": None}
    pictures = run(prompts, (0, 1), **given)
    assert pictures.shape[0] == 2 and pictures.isfinite().all()
    assert torch.equal(pictures, run(prompts, (0, 1), **by_hand))
    single = negative.for_pipeline(pipe, num_prompts=1)
    alone = torch.cat([run([prompt], [seed], **single) for seed, prompt in enumerate(prompts)])
    torch.testing.assert_close(alone, pictures, rtol=0, atol=1e-4)
    without: dict[str, Tensor | None] = {}
    if masked:
        embeds, mask, _, _ = pipe.encode_prompt(["", ""], do_classifier_free_guidance=False)
        without = {"negative_prompt_embeds": embeds, "negative_prompt_attention_mask": mask, "negative_prompt": None}
    assert (run(prompts, (0, 1), **without) - pictures).abs().amax((1, 2, 3)).min() > 1e-3


def official(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_only_the_shape_can_be_checked_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    negative = NegativeEmbedding.load(official(tmp_path / "x.bin", torch.ones(1, 77, 768)))
    negative.check_encoder(torch.zeros(1, 77, 768), "sd1.5")
    assert "the encoder of sd1.5 is unproven" in caplog.text
    with pytest.raises(
        ValueError,
        match="77x768, learned on Stable Diffusion 1.4 or 1.5.*another text encoder.*is read by Stable Diff",
    ):
        negative.check_encoder(torch.zeros(1, 77, 1024), "sd2.1")


class Bomb:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_code_is_refused_and_never_executed(tmp_path: Path):
    trace = tmp_path / "executed"
    path = official(tmp_path / "x.bin", Bomb(trace))
    with pytest.raises(ValueError, match="nothing in it was run") as error:
        NegativeEmbedding.load(path)
    assert "\n" not in str(error.value) and not trace.exists()
    assert "weights_only" not in str(error.value) and "safe_globals" not in str(error.value)  # no unsafe advice
    torch.load(path, weights_only=False)  # the bomb is live
    assert trace.exists()


@pytest.mark.parametrize("content", [torch.ones(1, 5, 6), {"x": torch.ones(1)}, torch.ones(77, 768), "text"])
def test_other_contents_are_refused(tmp_path: Path, content: object):
    with pytest.raises(ValueError, match="official file"):
        NegativeEmbedding.load(official(tmp_path / "x.bin", content))


def test_what_is_no_torch_file_or_holds_nan_is_refused(tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(b"no tensor")
    with pytest.raises(ValueError, match="is not a zip file"):
        NegativeEmbedding.load(tmp_path / "x.bin")
    with pytest.raises(ValueError, match="NaN or infinity"):
        NegativeEmbedding.load(official(tmp_path / "y.bin", torch.full((1, 77, 768), float("nan"))))


def test_the_content_decides_and_not_the_name(tmp_path: Path):
    official(tmp_path / "x.bin", torch.ones(1, 77, 768)).rename(tmp_path / "x.safetensors")
    assert NegativeEmbedding.load(tmp_path / "x.safetensors").null_prompt_embeds is None
    NegativeEmbedding(torch.ones(1, 5, 6), torch.zeros(1, 5, 6)).save(tmp_path / "y.bin")
    assert NegativeEmbedding.load(tmp_path / "y.bin").null_prompt_embeds is not None


def repack(path: Path, name: str = "", content: bytes = b"", compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a torch file's entries anew, one with another content, each with a right checksum."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, own in entries.items():
            archive.writestr(entry, content if Path(entry).name == name else own)
    return path


def test_what_torch_would_not_have_written_is_refused_before_it_is_unpickled(tmp_path: Path):
    path = official(tmp_path / "x.bin", torch.ones(1, 77, 768))
    NegativeEmbedding.load(repack(path))
    with pytest.raises(ValueError, match="byte order is not little"):
        NegativeEmbedding.load(repack(path, "byteorder", b"big"))
    with pytest.raises(ValueError, match="compressed or encrypted"):
        NegativeEmbedding.load(repack(path, "byteorder", b"little", zipfile.ZIP_DEFLATED))
    content = bytearray(repack(path).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="the checksum of '.*/data/0' is wrong|Bad CRC"):
        NegativeEmbedding.load(path)


def test_storages_beyond_the_file_are_refused(tmp_path: Path):
    path = official(tmp_path / "x.bin", torch.ones(1, 77, 768))
    with pytest.raises(ValueError, match="give an official file"):
        NegativeEmbedding.load(repack(path, "0", bytes(400)))


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(1, 77, 768).to_sparse(),
        torch.empty(1, 77, 768, device="meta"),
        torch.ones(1, 77, 768, dtype=torch.complex64),
        torch.ones(1, 77, 768, dtype=torch.int32),
    ],
    ids=["sparse", "meta", "complex", "integers"],
)
def test_other_kinds_of_tensor_are_refused(tmp_path: Path, content: torch.Tensor):
    with pytest.raises(ValueError, match="official file"):
        NegativeEmbedding.load(official(tmp_path / "x.bin", content))
