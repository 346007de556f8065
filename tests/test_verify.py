"""`reneg verify`: the picture with and without, from one noise."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import SIDE, tiny_model, tiny_pipeline

from reneg.cli import EXIT_BAD_INPUT, EXIT_FAILED, main
from reneg.errors import VerificationError
from reneg.file_config import VerifyConfig
from reneg.models import load_model
from reneg.negative import NegativeEmbedding
from reneg.verify import verify

STEPS = ["--num_inference_steps", "2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a file that changes pictures, one that is the null text, and one for another encoder."""
    folder = tmp_path_factory.mktemp("verify")
    tiny_pipeline().save_pretrained(folder / "model")
    null = tiny_model().encode_prompt([""]).prompt_embeds
    moved = null + torch.randn(null.shape, generator=torch.Generator().manual_seed(0))
    NegativeEmbedding(moved, null).save(folder / "moved.safetensors")
    NegativeEmbedding(null.clone(), null).save(folder / "null.safetensors")
    NegativeEmbedding(moved.clone(), moved).save(folder / "foreign.safetensors")
    return folder


def arguments(tiny: Path, name: str, *more: str) -> list[str]:
    return ["verify", str(tiny / name), "--model", str(tiny / "model"), *STEPS, *more]


def own_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of reneg on standard error, without the libraries' loading bars, which a process of its own silences."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("reneg:")]


def test_a_file_that_changes_the_picture(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(tiny, "moved.safetensors", "--output_dir", str(tmp_path))) == 0
    assert "changes the picture of 'a red cat'" in capsys.readouterr().out
    without, with_file = (Image.open(tmp_path / f"{name}.png") for name in ("null", "negative"))
    assert without.size == with_file.size == (SIDE, SIDE)
    assert without.tobytes() != with_file.tobytes()


def test_a_file_that_changes_nothing_fails_in_one_line(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(tiny, "null.safetensors", "--output_dir", str(tmp_path))) == EXIT_FAILED
    lines = own_lines(capsys)
    assert len(lines) == 1 and "changes nothing" in lines[0] and "0.0e+00" in lines[0]


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("gone.safetensors", [], "no negative embedding"),
        ("foreign.safetensors", [], "another text encoder"),
        ("moved.safetensors", ["--prompt", " "], "--prompt"),
        ("moved.safetensors", ["--guidance_scale", "1"], "--guidance_scale"),
    ],
)
def test_wrong_input(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, more: list[str], told: str
):
    assert main(arguments(tiny, name, "--output_dir", str(tmp_path), *more)) == EXIT_BAD_INPUT
    lines = own_lines(capsys)
    assert len(lines) == 1 and told in lines[0]


def test_on_the_bundled_world(tmp_path: Path):
    model = load_model("world")
    null = model.encode_prompt([""]).prompt_embeds
    other = model.encode_prompt(["blurry"]).prompt_embeds
    NegativeEmbedding(other, null).save(tmp_path / "other.safetensors")
    NegativeEmbedding(null.clone(), null).save(tmp_path / "null.safetensors")

    def settings(name: str) -> VerifyConfig:
        return VerifyConfig(file=tmp_path / name, output_dir=tmp_path, num_inference_steps=4)

    assert verify(settings("other.safetensors")).changed_pixels > 0.01
    with pytest.raises(VerificationError, match="changes nothing on world"):
        verify(settings("null.safetensors"))
