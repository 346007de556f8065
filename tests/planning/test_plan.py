"""The memory plan: parameter counts as published, and bytes as real tensors take them."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny import save_tiny_reward, tiny_model, tiny_pipeline
from tiny_pixart import tiny_pixart
from tiny_sana import tiny_sana
from tiny_sd3 import tiny_sd3
from torch._subclasses.fake_tensor import FakeTensorMode

from reneg.cli import main
from reneg.config import PlanConfig
from reneg.planning import Plan, plan
from reneg.planning.plan import DTYPES, ENCODING, GIB, GRADIENT, JUDGING, LOOK, RESERVE, SCORING
from reneg.planning.skeletons import MODELS, TOWERS, build, build_pipeline, read_model, read_reward
from reneg.planning.tables import verdict
from reneg.planning.tracker import MemoryTracker

SIZE_EMBEDDERS = 2 * ((256 + 1) * 384 + (384 + 1) * 384)
"""Resolution and aspect ratio, which PixArt-alpha's 1024-pixel model alone has."""
KNOWN = {
    "sd1.5": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "sd3.5-medium": {
        "transformer": 2_243_171_520,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
        "text_encoder_3": 4_762_310_656,
    },
    "pixart-alpha": {"transformer": 610_856_096 + SIZE_EMBEDDERS, "vae": 83_653_863, "text_encoder": 4_762_310_656},
    "pixart-sigma": {"transformer": 610_856_096, "vae": 83_653_863, "text_encoder": 4_762_310_656},
    "sana": {"transformer": 1_604_462_752, "vae": 312_250_275, "text_encoder": 2_614_341_888},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    tiny_pipeline().save_pretrained(folder / "model")
    save_tiny_reward(folder / "reward")
    return folder


def tiny_plan(tiny: Path, **settings: Any) -> Plan:
    return plan(PlanConfig(model=str(tiny / "model"), reward=str(tiny / "reward"), **settings))


def phases(found: Plan) -> dict[str, Any]:
    return {phase.name: phase for phase in found.phases}


@pytest.mark.parametrize("model", MODELS)
def test_parameter_counts_are_the_published_ones(model: str):
    configs = {part: config for part, config in read_model(model).items() if part != "_class_name"}
    with FakeTensorMode(allow_non_fake_inputs=True):
        modules = {part: build(config, torch.bfloat16) for part, config in configs.items()}
    assert {part: sum(p.numel() for p in module.parameters()) for part, module in modules.items()} == KNOWN[model]


@pytest.mark.parametrize(("reward", "count"), [("hpsv2.1", 986_109_441), ("clipscore", 427_616_513)])
def test_parameter_counts_of_the_reward_towers(reward: str, count: int):
    with FakeTensorMode(allow_non_fake_inputs=True):
        tower = build(read_reward(reward, "--reward"), torch.float32)
    assert sum(p.numel() for p in tower.parameters()) == count
    assert set(TOWERS.values()) == {"clip-h", "clip-l"}


def test_fake_and_real_tensors_take_the_same_bytes():
    """The plan's own counting against real tensors and autograd's own hooks, on the denoiser."""
    kept = {}
    for mode in (contextlib.nullcontext(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode:
            unet = tiny_pipeline().unet if isinstance(mode, contextlib.nullcontext) else None
            unet = unet or build(dict(tiny_pipeline_config()), torch.float32)
            unet.requires_grad_(False)
            embeds = torch.zeros(2, 16, 16, requires_grad=True)
            weights = [*unet.parameters(), *unet.buffers()]
            known = {weight.untyped_storage()._cdata for weight in weights}
            saved: dict[int, torch.UntypedStorage] = {}

            def pack(tensor: torch.Tensor, known: set = known, saved: dict = saved) -> torch.Tensor:
                storage = tensor.untyped_storage()
                if storage._cdata not in known:
                    saved[storage._cdata] = storage
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                with MemoryTracker([*weights, embeds]) as tracker:
                    output = unet(torch.zeros(2, 4, 8, 8), torch.tensor(1), encoder_hidden_states=embeds).sample
                    live = tracker.live - output.nbytes
            kept[type(mode).__name__] = (sum(storage.nbytes() for storage in saved.values()), live)
    (real, live), (fake, planned) = kept["nullcontext"], kept["FakeTensorMode"]
    assert real == fake and live == planned
    assert live == pytest.approx(real, rel=0.02)


def tiny_pipeline_config() -> dict[str, Any]:
    return {**dict(tiny_pipeline().unet.config), "_class_name": "UNet2DConditionModel"}


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Plan:
    return tiny_plan(tiny, train_batch_size=4)


def test_a_folders_own_configurations_are_read(plain: Plan):
    found = plain
    model = tiny_model()
    counts = {part.name: part.parameters for part in found.components}
    assert counts["denoiser"] == sum(p.numel() for p in model.denoiser.parameters())
    assert counts["VAE"] == sum(p.numel() for p in model.vae.parameters())
    assert counts["text_encoder"] == sum(p.numel() for p in model.text_encoder.parameters())
    assert found.resolution == 16 and found.fits is None


@pytest.mark.slow
def test_settings_change_what_they_should(tiny: Path, plain: Plan):
    saved, lean = phases(plain), phases(tiny_plan(tiny, train_batch_size=4, gradient_checkpointing=True))
    assert lean[GRADIENT].kept < saved[GRADIENT].kept / 2
    large = phases(tiny_plan(tiny, train_batch_size=8, resolution=32))
    assert large[GRADIENT].kept > 7 * saved[GRADIENT].kept
    assert large[LOOK].peak > 3 * saved[LOOK].peak


@pytest.mark.slow
def test_slicing_holds_one_picture_and_a_reward_in_bfloat16_half_the_bytes(tiny: Path, plain: Plan):
    settings: dict[str, Any] = {"train_batch_size": 4, "vae_slicing": True, "reward_dtype": "bf16"}
    found = tiny_plan(tiny, **settings)
    whole, single = phases(plain), phases(found)
    beyond = [each[SCORING].peak - each[GRADIENT].kept for each in (whole, single)]
    assert single[GRADIENT] == whole[GRADIENT] and beyond[1] < beyond[0] / 3
    left = [each[SCORING].kept - each[GRADIENT].kept for each in (whole, single)]
    assert left[1] < left[0] / 5
    sizes = [next(part.size for part in each.components if part.name == "reward") for each in (plain, found)]
    assert sizes[1] < 0.55 * sizes[0]


@pytest.mark.slow
def test_a_folder_of_pixart(tmp_path: Path):
    """T5 at the pipeline's length; of the transformer's channels the learned sigma is dropped before the VAE."""
    pipe = tiny_pixart()
    pipe.save_pretrained(tmp_path / "model")
    save_tiny_reward(tmp_path / "reward")
    found = plan(PlanConfig(model=str(tmp_path / "model"), reward=str(tmp_path / "reward"), train_batch_size=2))
    counts = {part.name: part.parameters for part in found.components}
    assert counts["denoiser"] == sum(p.numel() for p in pipe.transformer.parameters())
    assert found.resolution == 16 and phases(found)[GRADIENT].kept > 0


@pytest.mark.slow
def test_text_encoders_are_gone_after_their_phase_and_offloading_keeps_what_works_together(tiny: Path):
    found = tiny_plan(tiny, train_batch_size=1, monitor=str(tiny / "reward"))
    size = {part.name: part.size for part in found.components}
    lean = replace(found, config=replace(found.config, offload=True))
    plain, moved = ({p.name: each.resident(p) for p in each.phases} for each in (found, lean))
    everything, encoders = sum(size.values()), size["text_encoder"]
    assert plain.pop(ENCODING) == everything
    assert set(plain.values()) == {everything - encoders}
    assert moved[ENCODING] == encoders
    assert moved[GRADIENT] == size["denoiser"] + size["VAE"] + size["reward"]
    assert moved[LOOK] == size["denoiser"] + size["VAE"] and moved[JUDGING] == size["reward"] + size["monitor"]
    assert lean.peak < found.peak


@pytest.mark.parametrize("build", [tiny_sd3, tiny_sana], ids=["sd3", "sana"])
@pytest.mark.slow
def test_folders_of_flows_in_bfloat16(tmp_path: Path, build: Any):
    """All parts meet in one precision, as they must in learning."""
    build().save_pretrained(tmp_path / "model")
    save_tiny_reward(tmp_path / "reward")
    settings = {"dtype": "bf16", "gradient_checkpointing": True, "train_batch_size": 1}
    found = plan(PlanConfig(model=str(tmp_path / "model"), reward=str(tmp_path / "reward"), **settings))
    assert phases(found)[GRADIENT].kept > 0 and phases(found)[ENCODING].peak > 0


@pytest.mark.parametrize(("dtype", "vae"), [("bf16", torch.bfloat16), ("fp16", torch.float32)])
def test_precisions_are_those_of_learning(tiny: Path, dtype: str, vae: torch.dtype):
    with FakeTensorMode(allow_non_fake_inputs=True):
        skeleton = build_pipeline(read_model(str(tiny / "model")), DTYPES[dtype])
    assert skeleton.denoiser.dtype == DTYPES[dtype] and skeleton.vae.dtype == vae


@pytest.mark.slow
def test_the_largest_batch_is_the_one_that_fits(tiny: Path):
    memory = 1.6
    largest = tiny_plan(tiny, train_batch_size=1).largest_batch(memory)
    peak = tiny_plan(tiny, train_batch_size=largest).peak
    assert 0.98 * (memory * GIB - RESERVE) < peak <= memory * GIB - RESERVE


def test_the_verdict_says_what_would_help(plain: Plan):
    small = replace(plain, config=replace(plain.config, gpu_memory=1.5))
    assert verdict(small) == [
        "Does not fit 1.5 GiB",
        "Not even --train_batch_size 1 does; try --dtype bf16 and --gradient_checkpointing and --offload",
    ]
    assert verdict(plain) == []


@pytest.mark.slow
def test_the_command(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reneg.cli.Console", lambda **options: Console(width=140, **options))
    arguments = ["plan", "--model", str(tiny / "model"), "--reward", str(tiny / "reward"), "--train_batch_size", "1"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "UNet2DConditionModel" in shown and "Expected peak" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "sd9"}, "--model 'sd9' cannot be planned; choose from world, world-small, world-v, sd1.5"),
        ({"reward": "nothing"}, "--reward 'nothing' cannot be planned; choose from hpsv2.1"),
        ({"model": "sd1.5", "resolution": 500}, "--resolution 500: must be a multiple of 64"),
    ],
)
def test_what_cannot_be_planned(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        plan(PlanConfig(**settings))


def test_a_broken_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no configuration"):
        plan(PlanConfig(model=str(tmp_path)))
    (tmp_path / "model_index.json").write_text('{"_class_name": "OtherPipeline"}')
    with pytest.raises(
        ValueError, match="OtherPipeline, which cannot be planned; choose from StableDiffusionPipeline"
    ):
        plan(PlanConfig(model=str(tmp_path)))
