"""HPSv2: the converted original computes what open_clip computes; pictures as the original takes them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scorers import hps_reward, open_clip_state, photographs, pictures, save_hps
from tiny import tiny_tokenizer
from torch import Tensor
from transformers import CLIPModel, CLIPTextConfig, CLIPVisionConfig

from reneg.report import to_uint8
from reneg.rewards import load_reward
from reneg.rewards.hps import convert_open_clip, open_clip_config
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

NAME = "hpsv2.1, hpsv2.0"
PROMPTS = ["a cat", "a red house", ""]


def original_layers(x: Tensor, state: dict[str, Tensor], prefix: str, heads: int, mask: Tensor | None) -> Tensor:
    """open_clip's Transformer: sequence first, torch's own attention, exact GELU."""
    x = x.permute(1, 0, 2)
    for layer in range(2):
        w = {key.removeprefix(f"{prefix}resblocks.{layer}."): value for key, value in state.items()}
        width = x.shape[-1]
        normed = F.layer_norm(x, (width,), w["ln_1.weight"], w["ln_1.bias"])
        attended, _ = F.multi_head_attention_forward(
            normed,
            normed,
            normed,
            width,
            heads,
            w["attn.in_proj_weight"],
            w["attn.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            w["attn.out_proj.weight"],
            w["attn.out_proj.bias"],
            need_weights=False,
            attn_mask=mask,
        )
        x = x + attended
        normed = F.layer_norm(x, (width,), w["ln_2.weight"], w["ln_2.bias"])
        hidden = F.gelu(F.linear(normed, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))
        x = x + F.linear(hidden, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
    return x.permute(1, 0, 2)


def original_image(pixels: Tensor, state: dict[str, Tensor]) -> Tensor:
    """open_clip's VisionTransformer.forward."""
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=state["visual.conv1.weight"].shape[-1])
    x = x.flatten(2).permute(0, 2, 1)
    width = x.shape[-1]
    x = (
        torch.cat([state["visual.class_embedding"].expand(len(x), 1, width), x], 1)
        + state["visual.positional_embedding"]
    )
    x = F.layer_norm(x, (width,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = original_layers(x, state, "visual.transformer.", width // 80, None)
    x = F.layer_norm(x[:, 0], (width,), state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return F.normalize(x @ state["visual.proj"], dim=-1)


def original_text(ids: Tensor, state: dict[str, Tensor]) -> Tensor:
    """open_clip's encode_text: causal, pooled at the highest number, which is the end token's."""
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    mask = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=x.dtype).triu(1)
    x = original_layers(x, state, "transformer.", x.shape[-1] // 64, mask)
    x = F.layer_norm(x, (x.shape[-1],), state["ln_final.weight"], state["ln_final.bias"])
    return F.normalize(x[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"], dim=-1)


def test_scores_are_the_originals(prove):
    state = {key: value.double() for key, value in open_clip_state().items()}
    images, reward = pictures(3), hps_reward(False)
    ids = reward._tokenize(PROMPTS, torch.device("cpu"))["input_ids"]
    for i, prompt in enumerate(PROMPTS):  # the original pads with 0, which changes nothing
        ids[i, len(tiny_tokenizer()(prompt).input_ids) :] = 0
    expected = (original_image(reward.preprocess(images), state) * original_text(ids, state)).sum(-1)
    difference = float((reward(images, PROMPTS) - expected).abs().max())
    assert float(expected.std()) > 1e-3 and difference < 1e-12
    prove(NAME, "score of converted weights, without logit_scale", "open_clip's formulas on the original", difference)


def test_quick_gelu_would_be_noticed():
    state = convert_open_clip(open_clip_state())
    wrong = open_clip_config(state)
    for tower in (wrong.text_config, wrong.vision_config):
        assert isinstance(tower, CLIPTextConfig | CLIPVisionConfig)
        tower.hidden_act = "quick_gelu"
    model = CLIPModel(wrong).eval()
    model.load_state_dict(state)
    reward = hps_reward(False)
    pixels = reward.preprocess(pictures(3)).float()
    with torch.no_grad():
        vectors = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)  # type: ignore
    assert float((vectors - reward.encode_images(pictures(3))).abs().max()) > 1e-4


def test_every_key_and_shape_of_the_full_size(prove):
    """686 keys of open_clip's ViT-H-14 -> 910 of transformers', without their memory."""
    with torch.device("meta"):
        original: dict[str, Tensor] = {"logit_scale": torch.empty(())}
        tiny = open_clip_state()
        sizes = {128: 1024, 384: 3072, 256: 4096, 160: 1280, 480: 3840, 320: 5120, 24: 1024, 5: 257, 16: 77}
        sizes |= {len(tiny_tokenizer()): 49408}
        for key, value in tiny.items():
            if "resblocks.1." in key or key == "logit_scale":
                continue
            shape = [sizes.get(n, n) for n in value.shape]
            if "mlp" in key and "visual" in key:
                shape = [sizes[n] for n in value.shape]
            if key == "visual.conv1.weight":
                shape = [1280, 3, 14, 14]
            layers = (32 if key.startswith("visual") else 24) if "resblocks" in key else 1
            original |= {key.replace("resblocks.0.", f"resblocks.{n}."): torch.empty(shape) for n in range(layers)}
        converted = convert_open_clip(original)
        model = CLIPModel(open_clip_config(converted))
    expected = model.state_dict()
    assert (len(original), len(converted)) == (686, 910)
    assert {key: value.shape for key, value in converted.items()} == {key: v.shape for key, v in expected.items()}
    assert sum(value.numel() for value in converted.values()) == 986_109_441
    prove(NAME, "keys and shapes at full size: 686 -> 910, 986,109,441 numbers", "transformers' CLIPModel", "equal")


@pytest.mark.parametrize(
    ("file", "name"), [("HPS_v2.1_compressed.pt", "hpsv2.1"), ("HPS_v2_compressed.pt", "hpsv2.0")]
)
def test_files_and_folders_load_under_their_versions_name(tmp_path: Path, file: str, name: str):
    state = {f"module.{key}": value for key, value in open_clip_state().items()}
    path = save_hps(tmp_path, file, state | {"module.attn_mask": torch.ones(2)}, epoch=3, name="hps")
    for given in (path, path.parent):
        reward = load_reward(str(given))
        assert reward.name == name
        scores = reward(pictures(3).float(), PROMPTS).double()
        torch.testing.assert_close(scores, hps_reward(False)(pictures(3), PROMPTS), rtol=0, atol=1e-6)
        assert not torch.equal(load_reward(str(given), published=True)(pictures(3).float(), PROMPTS).double(), scores)
    save_hps(tmp_path, "HPS_v2_compressed.pt", state)
    save_hps(tmp_path, "HPS_v2.1_compressed.pt", state)
    with pytest.raises(ValueError, match="holds more than one scorer .*give the file instead"):
        load_reward(str(tmp_path))


def test_bad_files_are_refused_in_one_line(tmp_path: Path):
    state, file = open_clip_state(), "HPS_v2.1_compressed.pt"
    without = {key: value for key, value in state.items() if key != "visual.proj"}
    one_less = {key: value for key, value in state.items() if key != "transformer.resblocks.1.ln_1.bias"}
    bad: dict[str, tuple[dict, dict]] = {
        "'visual.extra' is no weight": (state | {"visual.extra": torch.ones(1)}, {}),
        "'transformer.resblocks.0.attn.extra' is no": (
            state | {"transformer.resblocks.0.attn.extra": torch.ones(1)},
            {},
        ),
        "is not whole": (without, {}),
        "the weights do not fit": (one_less, {}),
        "cannot be read as tensors": (state, {"optimizer": tmp_path}),
    }
    for message, (weights, more) in bad.items():
        with pytest.raises(ValueError, match=message) as error:
            load_reward(str(save_hps(tmp_path, file, weights, **more)))
        assert "\n" not in str(error.value) and "hpsv2.1" in str(error.value)
    with pytest.raises(ValueError, match="no known scorer's file; its name must be one of HPS_v2.1_compressed.pt"):
        load_reward(str((tmp_path / file).rename(tmp_path / "mine.pt")))


def original_pixels(image: Image.Image, size: int, *, antialias: bool) -> Tensor:
    """HPSv2's `image_transform` with `resize_longest_max`: ToTensor, tensor resize, zeros around it, Normalize."""
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    height, width = tensor.shape[1:]
    scale = size / max(height, width)
    if scale != 1.0:
        new = round(height * scale), round(width * scale)
        tensor = F.interpolate(tensor[None], new, mode="bicubic", align_corners=False, antialias=antialias)[0]
        rows, columns = size - new[0], size - new[1]
        left, top = columns // 2, rows // 2
        tensor = F.pad(tensor, (left, columns - left, top, rows - top))
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return (tensor - mean) / std


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 35), (29, 48), (24, 24)])
def test_pictures_are_the_originals_in_both_paths(height: int, width: int, prove):
    image = Image.fromarray(to_uint8(pictures(1, 48)[..., :height, :width])[0].numpy())
    file = io.BytesIO()
    image.save(file, "JPEG")
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    for published in (None, "hpsv2"):
        own = ImagePreprocess(24, CLIP_MEAN, CLIP_STD, fit="pad", published=published)(tensor)[0]
        given = Image.open(file) if published else image
        difference = float((own - original_pixels(given, 24, antialias=published is None)).abs().max())
        assert difference < 1e-5
        path = "published path: pixels (JPEG, no antialiasing)" if published else "differentiable path: pixels"
        against = "torchvision <= 0.16's steps" if published else "torchvision >= 0.17's steps"
        prove(NAME, path, f"HPSv2's image_transform with {against}", difference)


def test_what_antialiasing_and_jpeg_change_on_real_pictures(shared_data: Path, prove):
    images, size = photographs(shared_data), 224
    smooth, rough, jpeg = (
        ImagePreprocess(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit="pad", published="hpsv2")(images)
        if path == "jpeg"
        else F.interpolate(images, (size, size), mode="bicubic", antialias=path == "smooth")
        for path in ("smooth", "rough", "jpeg")
    )
    pictures_of = "five real 512x512 pictures"
    for what, other in (("antialiasing alone", rough), ("antialiasing and JPEG: the two paths", jpeg)):
        difference = (smooth - other).abs()
        assert 0.002 < float(difference.mean()) < 0.03
        prove(NAME, f"what is due to {what}, pixels in [0, 1], mean", pictures_of, float(difference.mean()))
        prove(NAME, f"what is due to {what}, pixels in [0, 1], largest", pictures_of, float(difference.max()))
    reward, plain = hps_reward(False, 224), hps_reward(True, 224)
    prompts = ["a cat"] * len(images)
    scores, published = reward(images.double(), prompts), plain(images.double(), prompts)
    share = float((scores - published).abs().max() / scores.std())
    prove(NAME, "score by the two paths, random weights, relative to the pictures' spread", pictures_of, share)


@pytest.mark.parametrize("side", [512, 1024])
def test_pixels_that_no_gradient_would_reach_without_antialiasing(side: int, prove):
    """A bicubic reads four pixels in a row: all of them while it shrinks by less than four, and not beyond."""
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    shares = []
    for antialias in (True, False):
        images.grad = None
        F.interpolate(images, (224, 224), mode="bicubic", antialias=antialias).square().sum().backward()
        assert images.grad is not None
        shares.append(float((images.grad == 0).double().mean()))
    assert shares[0] == 0 and (shares[1] > 0.1) == (side > 4 * 224)
    prove(NAME, f"share of pixels of {side}x{side} that get no gradient without antialiasing", "0 with it", shares[1])
