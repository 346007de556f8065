"""Files of weights: recognised, checked, applied for a while, and read by diffusers and transformers themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import PROMPTS, Brightness, GaussianModel
from hub_server import running_hub
from safetensors.torch import load_file, save_file
from short_runs import quick
from tiny import tiny_model, tiny_pipeline
from torch import Tensor

from reneg.generation import generate, picture_generators, picture_noise
from reneg.learning import Learner
from reneg.models.sd import StableDiffusion
from reneg.negative import NegativeEmbedding
from reneg.processes import make_accelerator
from reneg.run_folder import result_names
from reneg.targets.weights_files import open_weights

KINDS = ["lora", "denoiser", "text_encoder"]
RATES = {"lora": 0.05, "denoiser": 2e-3, "text_encoder": 2e-2}


def picture(model: StableDiffusion) -> Tensor:
    noise = picture_noise(model, picture_generators(3, 0, 1))
    return generate(model, PROMPTS[:1], model.null_conditioning(), noise, num_inference_steps=3)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor]]:
    """Kind -> a short run's file, and the picture of the model that it trained."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reneg.trainer.write_learning_report", lambda *arguments: None)
        for kind in KINDS:
            folder, model = tmp_path_factory.mktemp(kind), tiny_model()
            shape = {"max_train_steps": 2, "num_inference_steps": 3, "grad_step_range": (2, 2), "monitor": None}
            config = quick(folder, target=kind, learning_rate=RATES[kind], num_validation_prompts=1, **shape)
            Learner(config, model, Brightness(), None, PROMPTS, make_accelerator(config)).run()
            if model.pipe.text_encoder is None:  # the run has let it go, as it was
                model.pipe.text_encoder = tiny_model().text_encoder
            found[kind] = folder / result_names(kind)[0], picture(model)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_applied_a_file_draws_what_the_trained_model_draws_and_leaves_no_trace(
    kind: str, learned: dict[str, tuple[Path, Tensor]]
):
    path, wanted = learned[kind]
    model = tiny_model()
    before, keys = picture(model), [list(part.state_dict()) for part in (model.denoiser, model.text_encoder)]
    file = open_weights(path, model)
    assert file is not None and (file.kind, file.metadata["target"]) == (kind, kind)
    with file.applied(model):
        assert torch.allclose(picture(model), wanted, atol=1e-5)
    assert torch.equal(picture(model), before)
    assert [list(part.state_dict()) for part in (model.denoiser, model.text_encoder)] == keys
    assert float((wanted - before).abs().max()) > 1e-3
    with pytest.raises(KeyboardInterrupt), file.applied(model):
        raise KeyboardInterrupt
    assert torch.equal(picture(model), before)


def test_diffusers_reads_the_lora_by_itself(learned: dict[str, tuple[Path, Tensor]]):
    path, wanted = learned["lora"]
    pipe = tiny_pipeline()
    pipe.load_lora_weights(str(path))
    assert torch.allclose(picture(StableDiffusion(pipe, name="tiny")), wanted, atol=1e-5)


def test_the_components_own_classes_read_the_weights(learned: dict[str, tuple[Path, Tensor]], tmp_path: Path):
    pipe = tiny_pipeline()
    pipe.unet.load_state_dict(load_file(learned["denoiser"][0]))
    assert torch.allclose(picture(StableDiffusion(pipe, name="tiny")), learned["denoiser"][1], atol=1e-5)
    pipe = tiny_pipeline()
    weights = {k.removeprefix("text_encoder."): v for k, v in load_file(learned["text_encoder"][0]).items()}
    pipe.text_encoder.load_state_dict(weights)
    assert torch.allclose(picture(StableDiffusion(pipe, name="tiny")), learned["text_encoder"][1], atol=1e-5)
    # Beside its configuration, as from_pretrained wants it.
    pipe.unet.save_config(tmp_path)
    shutil.copy(learned["denoiser"][0], tmp_path / "diffusion_pytorch_model.safetensors")
    read = type(pipe.unet).from_pretrained(tmp_path)
    assert torch.equal(read.conv_in.weight, load_file(learned["denoiser"][0])["conv_in.weight"])


def test_a_published_denoiser_in_half_precision_is_one_too(tmp_path: Path):
    """What lies in the unet folder of a fine-tuned Stable Diffusion: nothing of ours in its metadata."""
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(0.5)
    pipe.unet.half().save_pretrained(tmp_path / "unet")
    model = tiny_model()
    before = picture(model)
    file = open_weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", model)
    assert file is not None and file.kind == "denoiser"
    with file.applied(model):
        assert model.dtype == torch.float32 and float((picture(model) - before).abs().max()) > 1e-3


def moved_denoiser(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """Save a whole pipeline whose denoiser was trained on, and give the picture it draws."""
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(0.5)
    pipe.unet.to(dtype).save_pretrained(folder / "unet")
    pipe.unet.float()
    return picture(StableDiffusion(pipe, name="tiny"))


@pytest.mark.parametrize("inner", ["", "unet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_of_a_pipeline_or_of_its_denoiser_is_its_denoisers_weights(
    inner: str, dtype: torch.dtype, tmp_path: Path
):
    """As Diffusion-DPO is published (a unet folder), in full and in half precision."""
    wanted, model = moved_denoiser(tmp_path, dtype), tiny_model()
    file = open_weights(tmp_path / inner, model)
    assert file is not None and file.path == tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    with file.applied(model):
        assert torch.allclose(picture(model), wanted, atol=1e-5 if dtype == torch.float32 else 2e-3)


def test_a_torch_file_is_read_as_tensors_and_its_code_is_not_run(tmp_path: Path):
    """As DDPO is published: unet/diffusion_pytorch_model.bin."""
    wanted, model = moved_denoiser(tmp_path), tiny_model()
    safe = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), tmp_path / "unet" / "diffusion_pytorch_model.bin")
    safe.unlink()
    file = open_weights(tmp_path, model)
    assert file is not None and (file.kind, file.path.suffix) == ("denoiser", ".bin")
    with file.applied(model):
        assert torch.allclose(picture(model), wanted, atol=1e-5)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"conv_in.weight": Evil()}, tmp_path / "evil.bin")
    torch.save(torch.ones(1, 77, 768), tmp_path / "official.bin")
    assert open_weights(tmp_path / "evil.bin", model) is None and not (tmp_path / "ran").exists()
    assert open_weights(tmp_path / "official.bin", model) is None  # a negative embedding's


@pytest.mark.parametrize("prefix", ["", "module.text_model."])
def test_a_text_encoders_own_file_is_one_too(prefix: str, tmp_path: Path):
    """As transformers saves one, and as TextCraftor is published: from a wrapped module, with numbers of places."""
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(1.5)
    pipe.text_encoder.save_pretrained(tmp_path)
    path, wanted = tmp_path / "model.safetensors", picture(StableDiffusion(pipe, name="tiny"))
    if prefix:
        state = {prefix + name.removeprefix("text_model."): tensor for name, tensor in load_file(path).items()}
        path = tmp_path / "tc_text_e_0_iter_10000.pth"
        torch.save(state | {"module.text_model.embeddings.position_ids": torch.arange(16)[None]}, path)
    model = tiny_model()
    before, file = picture(model), open_weights(path, model)
    assert file is not None and file.kind == "text_encoder"
    with file.applied(model):
        assert torch.allclose(picture(model), wanted, atol=1e-5)
    assert torch.equal(picture(model), before) and float((wanted - before).abs().max()) > 1e-3


def test_a_whole_checkpoint_in_the_first_layout_is_refused_with_advice(tmp_path: Path):
    save_file({"model.diffusion_model.out.2.bias": torch.ones(4)}, tmp_path / "dpo.safetensors")
    with pytest.raises(ValueError, match="dpo.safetensors is a whole checkpoint .*from_single_file"):
        open_weights(tmp_path / "dpo.safetensors", tiny_model())


def test_a_published_denoiser_comes_from_the_hub(tmp_path: Path):
    """In a process of its own, because huggingface_hub reads its settings once."""
    wanted, model = moved_denoiser(tmp_path), tiny_model()
    repository, name = "mhdang/dpo-sd1.5-text2image-v1", "unet/diffusion_pytorch_model.safetensors"
    code = f"from reneg.hub import download; print(download({repository!r}, filename={name!r}, revision=None))"
    with running_hub() as (address, hub):
        hub.repositories[repository] = {name: (tmp_path / name).read_bytes()}
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
        )
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    file = open_weights(path, model)
    assert file is not None
    with file.applied(model):
        assert torch.allclose(picture(model), wanted, atol=1e-5)


def test_what_fits_another_model_is_refused_in_one_line(learned: dict[str, tuple[Path, Tensor]], tmp_path: Path):
    other = tiny_model()
    for kind in ("denoiser", "text_encoder"):
        tensors = load_file(learned[kind][0])
        name = min(tensors)
        save_file(tensors | {name: torch.ones(3, 3)}, tmp_path / f"{kind}.safetensors", metadata={"target": kind})
        with pytest.raises(
            ValueError, match=rf"weights of another {kind} than that of tiny: 1 tensors differ"
        ) as error:
            open_weights(tmp_path / f"{kind}.safetensors", other)
        assert "\n" not in str(error.value) and name in str(error.value)
    tensors = {key: torch.ones(5, 5) for key in load_file(learned["lora"][0])}
    save_file(tensors, tmp_path / "lora.safetensors")
    file, before = open_weights(tmp_path / "lora.safetensors", other), picture(other)
    assert file is not None
    with pytest.raises(ValueError, match="lora.safetensors cannot be added to tiny: ") as error, file.applied(other):
        pass
    assert "\n" not in str(error.value)
    assert torch.equal(picture(other), before)


def test_everything_else_is_left_to_its_own_reader(learned: dict[str, tuple[Path, Tensor]], tmp_path: Path):
    null = torch.ones(1, 3, 4)
    NegativeEmbedding(null + 1, null).save(tmp_path / "negative.safetensors")
    (tmp_path / "broken.safetensors").write_text("broken")
    for name in ("negative.safetensors", "broken.safetensors"):
        assert open_weights(tmp_path / name, tiny_model()) is None
    assert open_weights(learned["denoiser"][0], GaussianModel()) is None  # no pipeline, no weights
