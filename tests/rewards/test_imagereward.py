"""ImageReward: the converted original computes what the original computes, and nothing else loads."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scorers import image_reward, image_reward_shapes, image_reward_state, pictures, save_image_reward
from tiny import tiny_bert_tokenizer
from torch import Tensor

from reneg.rewards import REWARDS, find_reward, load_reward
from reneg.rewards.aesthetic import make_head
from reneg.rewards.imagereward import ImageReward, ImageRewardModel, convert_image_reward, image_reward_configs

NAME, FILE = "imagereward", "ImageReward.pt"
PROMPTS = ["a cat", "a red house", ""]
MED_CONFIG = {  # of the original file
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


class Original:
    """BLIP's picture encoder, its BERT and ImageReward's MLP from their formulas, on the original's own names."""

    def __init__(self, state: dict[str, Tensor], *, picture_epsilon: float = 1e-6, causal: bool = False):
        self.state = {key: value.double() for key, value in state.items()}
        self.picture_epsilon, self.causal = picture_epsilon, causal

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
        return centred / deviation * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(d) + bias) v of [l, width], head by head."""
        parts = [x.chunk(heads, -1) for x in (query, key, value)]
        out = []
        for q, k, v in zip(*parts, strict=True):
            scores = q @ k.T / q.shape[-1] ** 0.5
            out.append((scores if bias is None else scores + bias).softmax(-1) @ v)
        return torch.cat(out, -1)

    def patches(self, pixels: Tensor) -> Tensor:
        """[3, s, s] -> [1 + patches, width]: a Vision Transformer that normalises before each step and at the end."""
        name = "blip.visual_encoder."
        kernel = self.state[f"{name}patch_embed.proj.weight"]
        size = kernel.shape[-1]
        squares = pixels.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        x = squares @ kernel.flatten(1).T + self.state[f"{name}patch_embed.proj.bias"]
        x = torch.cat([self.state[f"{name}cls_token"][0], x]) + self.state[f"{name}pos_embed"][0]
        for layer in range(2):
            block = f"{name}blocks.{layer}."
            mixed = self.linear(f"{block}attn.qkv", self.norm(f"{block}norm1", x, self.picture_epsilon))
            query, key, value = mixed.chunk(3, -1)
            x = x + self.linear(f"{block}attn.proj", self.attend(query, key, value, x.shape[-1] // 64))
            hidden = self.linear(f"{block}mlp.fc1", self.norm(f"{block}norm2", x, self.picture_epsilon))
            x = x + self.linear(f"{block}mlp.fc2", F.gelu(hidden))
        return self.norm(f"{name}norm", x, self.picture_epsilon)

    def first_token(self, ids: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """[l] tokens -> the vector of the first: BERT, which normalises after each step and looks at the patches."""
        name, epsilon, heads = "blip.text_encoder.", 1e-12, 2
        x = self.state[f"{name}embeddings.word_embeddings.weight"][ids]
        x = x + self.state[f"{name}embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{name}embeddings.LayerNorm", x, epsilon)
        padding = (1 - mask.double()) * -10000.0
        if self.causal:
            padding = padding + torch.full((len(ids), len(ids)), -1e9, dtype=torch.float64).triu(1)
        for layer in range(2):
            block = f"{name}encoder.layer.{layer}."
            for part, seen, bias in (("attention", None, padding), ("crossattention", patches, None)):
                states = x if seen is None else seen
                query = self.linear(f"{block}{part}.self.query", x)
                key, value = (self.linear(f"{block}{part}.self.{which}", states) for which in ("key", "value"))
                attended = self.linear(f"{block}{part}.output.dense", self.attend(query, key, value, heads, bias))
                x = self.norm(f"{block}{part}.output.LayerNorm", x + attended, epsilon)
            hidden = F.gelu(self.linear(f"{block}intermediate.dense", x))
            x = self.norm(f"{block}output.LayerNorm", x + self.linear(f"{block}output.dense", hidden), epsilon)
        return x[0]

    def score(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.first_token(ids, mask, self.patches(pixels))
        for layer in (0, 2, 4, 6, 7):
            x = self.linear(f"mlp.layers.{layer}", x)
        return (x[0] - 0.16717362830052426) / 1.0333394966054072


def original_scores(reward: ImageReward, images: Tensor, original: Original) -> Tensor:
    tokens = tiny_bert_tokenizer()(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    inputs = zip(reward.preprocess(images), tokens.input_ids, tokens.attention_mask, strict=True)
    return torch.stack([original.score(*each) for each in inputs])


@pytest.mark.parametrize("published", [False, True], ids=["differentiable", "published"])
def test_scores_are_the_originals(published: bool, prove):
    images, reward = pictures(3), image_reward(published)
    expected = original_scores(reward, images, Original(image_reward_state()))
    difference = float((reward(images, PROMPTS) - expected).abs().max())
    assert float(expected.std()) > 1e-2 and difference < 1e-12
    prove(NAME, "score of converted weights, both paths", "the original's formulas on its own weights", difference)


@pytest.mark.parametrize("wrong", [{"picture_epsilon": 1e-5}, {"causal": True}], ids=str)
def test_transformers_defaults_would_be_noticed(wrong: dict[str, Any]):
    reward = image_reward(False)
    expected = original_scores(reward, pictures(3), Original(image_reward_state(), **wrong))
    assert float((reward(pictures(3), PROMPTS) - expected).abs().max()) > 1e-9


def test_every_key_and_shape_of_the_full_size(prove):
    """294 tensors of the picture encoder, 316 of the text encoder and 10 of the MLP, without their memory."""
    with torch.device("meta"):
        shapes = image_reward_shapes(MED_CONFIG, width=1024, layers=24, patches=196, patch=16, proj=256)
        original = {key: torch.empty(shape) for key, shape in shapes.items()}
        converted = convert_image_reward(original)
        vision, text = image_reward_configs(converted, MED_CONFIG)
        head = make_head({k.removeprefix("head."): v for k, v in converted.items() if k.startswith("head.")})
        expected = ImageRewardModel(vision, text, head).state_dict()
    assert (vision.image_size, vision.num_attention_heads, text.num_attention_heads) == (224, 16, 12)
    parts = [key.partition(".")[0] for key in converted]
    assert (len(original), [parts.count(part) for part in ("vision", "text", "head")]) == (625, [294, 316, 10])
    assert {key: value.shape for key, value in converted.items()} == {key: v.shape for key, v in expected.items()}
    numbers = sum(value.numel() for value in converted.values())
    prove(
        NAME, f"keys and shapes at full size: 625 -> 620, {numbers:,} numbers", "transformers' BLIP classes", "equal"
    )


@pytest.mark.parametrize("file", ["ImageReward.pt", "ImageReward.safetensors"])
def test_files_and_folders_load(tmp_path: Path, file: str):
    path = save_image_reward(tmp_path, file)
    for given in (path, tmp_path):
        reward = load_reward(str(given))
        assert reward.name == "imagereward" == find_reward(str(given))[0]
        scores = reward(pictures(3).float(), PROMPTS)
        torch.testing.assert_close(scores.double(), image_reward(False)(pictures(3), PROMPTS), rtol=0, atol=1e-5)
        published = load_reward(str(given), published=True)(pictures(3).float(), PROMPTS)
        torch.testing.assert_close(published.double(), image_reward(True)(pictures(3), PROMPTS), rtol=0, atol=1e-5)
        assert not torch.equal(published, scores)


def test_where_it_is():
    name, source = find_reward("imagereward")
    assert (name, source.weights, source) == ("imagereward", "ImageReward.pt", REWARDS["imagereward"])


def without(key: str) -> dict[str, Tensor]:
    return {name: value for name, value in image_reward_state().items() if name != key}


def spoilt(key: str, value: Any) -> dict[str, Any]:
    return image_reward_state() | {key: value}


PICTURE, TEXT = "blip.visual_encoder.", "blip.text_encoder."
BAD_WEIGHTS = {
    "'blip.visual_encoder.head.weight' is no weight": spoilt(PICTURE + "head.weight", torch.ones(1)),
    "'blip.visual_encoder.blocks.0.attn.rel.weight' is": spoilt(PICTURE + "blocks.0.attn.rel.weight", torch.ones(1)),
    "'blip.text_encoder.pooler.dense.weight' is no": spoilt(TEXT + "pooler.dense.weight", torch.ones(1)),
    "'blip.itm_head.weight' is no weight": spoilt("blip.itm_head.weight", torch.ones(1)),
    "'encoder.layer.0.output.dense.bias' is no": spoilt("encoder.layer.0.output.dense.bias", torch.ones(1)),
    "unknown or missing: mlp.layers.9.bias": spoilt("mlp.layers.9.bias", torch.ones(1)),
    "unknown or missing: mlp.layers.7.bias": without("mlp.layers.7.bias"),
    "is not whole": without(PICTURE + "patch_embed.proj.weight"),
    "the weights do not fit: .* Missing key": without(PICTURE + "cls_token"),
    "the weights do not fit: .* size mismatch": spoilt(TEXT + "embeddings.LayerNorm.bias", torch.ones(3)),
    "not ImageReward's": spoilt(PICTURE + "patch_embed.proj.weight", torch.ones(65, 3, 4, 4)),
    "not enough values to unpack": spoilt(PICTURE + "patch_embed.proj.weight", torch.ones(3)),
    "0-d tensor": spoilt(PICTURE + "blocks.0.mlp.fc1.weight", torch.tensor(1.0)),
    "is not a state dict": spoilt("mlp.layers.0.bias", 3),
    "cannot be read as tensors": spoilt("mlp.layers.0.bias", Path("code")),
}


@pytest.mark.parametrize("message", BAD_WEIGHTS)
def test_other_weights_are_refused_in_one_line(tmp_path: Path, message: str):
    path = save_image_reward(tmp_path, FILE, BAD_WEIGHTS[message])
    with pytest.raises(ValueError, match=message) as error:
        load_reward(str(path))
    assert "\n" not in str(error.value) and "imagereward" in str(error.value)


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "has hidden_size 32, and the weights have 24": {"hidden_size": 32},
    "has num_hidden_layers None, and": {"num_hidden_layers": None},
    "num_attention_heads 5, which do not divide 24": {"num_attention_heads": 5},
    "num_attention_heads 0, which": {"num_attention_heads": 0},
    "hidden_act 'gulp'": {"hidden_act": "gulp"},
    "layer_norm_eps 'small'": {"layer_norm_eps": "small"},
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path: Path, message: str):
    path = save_image_reward(tmp_path, FILE, **BAD_CONFIGS[message])
    with pytest.raises(ValueError, match=message) as error:
        load_reward(str(path))
    assert "\n" not in str(error.value) and "imagereward" in str(error.value)


def test_what_belongs_beside_the_weights(tmp_path: Path):
    path = save_image_reward(tmp_path, FILE)
    for content in ("{", "[1]", None):
        (tmp_path / "med_config.json").write_text(content) if content else (tmp_path / "med_config.json").unlink()
        with pytest.raises(ValueError, match="med_config.json is not readable .* it belongs beside the weights"):
            load_reward(str(path))
    save_image_reward(tmp_path, FILE)
    tokenizer = tiny_bert_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it must be bert-base-uncased's"):
        load_reward(str(path))


def test_text_is_the_originals():
    """[CLS] stays, BLIP's tokens are known, and 35 tokens are read, with one warning."""
    reward = image_reward(False)
    tokens = reward._tokenize(["A [ENC] b"], torch.device("cpu"))
    names = reward.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    assert names == ["[CLS]", "a", "[ENC]", "b", "[SEP]"] + ["[PAD]"] * 30
    assert tokens["attention_mask"].sum() == 5
    images, whole = pictures(1), "a b " * 16 + "c"  # 33 tokens and two around them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = reward(images, [whole])
    with pytest.warns(UserWarning, match="'tiny' reads the first 35 tokens of longer prompts"):
        assert torch.equal(reward(images, [whole + " d"]), score)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(images, [whole + " d"])  # it has been said
