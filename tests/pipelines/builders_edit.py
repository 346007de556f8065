"""Classes that edit a picture, and those whose prompts must be texts: a tiny language model encodes them."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

from functools import partial
from typing import Any

from diffusers import AutoencoderKLQwenImage, LongCatImageTransformer2DModel, QwenImageTransformer2DModel
from PIL import Image
from pipelines.builders_image import WIDE_HEADS, masked_out, qwen_components
from pipelines.families import TOKENS, WIDTH, call_arguments, flow, flow_vae, hand_made
from pipelines.harness import Case, Family, PerPrompt, Pool
from tiny import tiny_tokenizer
from transformers import CLIPTokenizer, Qwen2Config, Qwen2Model, Qwen2VLImageProcessorPil

SIDE = 32
PICTURE = Image.effect_noise((SIDE, SIDE), 60).convert("RGB")
TEXTS = PerPrompt(["a fox", "a red boat", "two owls"])


class LanguageModel(Qwen2Model):
    """In the place of Qwen2.5-VL, whose hidden states these classes ask for: it does not look at the picture."""

    def forward(self, *, pixel_values: Any = None, image_grid_thw: Any = None, **texts: Any) -> Any:
        return super().forward(**texts)


def language_model() -> LanguageModel:
    return LanguageModel(
        Qwen2Config(
            vocab_size=len(text_tokenizer()),
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
        )
    )


def text_tokenizer() -> CLIPTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"], special_tokens=True)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return tokenizer


class Processor:
    """In the place of Qwen2.5-VL's: the classes ask for what prepares pictures alone."""

    image_processor = Qwen2VLImageProcessorPil(min_pixels=SIDE * SIDE)


def text_components() -> Pool:
    return {"text_encoder": language_model(), "tokenizer": text_tokenizer(), "text_processor": Processor()}


def layered_components() -> Pool:
    transformer = QwenImageTransformer2DModel(
        in_channels=32,
        out_channels=8,
        num_layers=1,
        joint_attention_dim=WIDTH,
        use_additional_t_cond=True,
        use_layer3d_rope=True,
        **WIDE_HEADS,
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=8, input_channels=4, num_res_blocks=1, latents_mean=[0.0] * 8, latents_std=[1.0] * 8
    )
    return {**qwen_components(), **text_components(), "transformer": transformer, "vae": vae}


def longcat_components() -> Pool:
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        num_attention_heads=2,
        attention_head_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    return {"transformer": transformer, "vae": flow_vae(16), "scheduler": flow(), **text_components()}


def edit_arguments(count: int, **more) -> Pool:
    mask = masked_out()[:1].repeat(1, 1, 2, 2)
    pool = call_arguments(count, mask="prompt_embeds_mask", scale="true_cfg_scale", **more)
    return pool | {"image": PICTURE, "mask_image": mask, "generator": pool["generator"]}


def edit_family(components, **more) -> Family:
    by_hand = partial(hand_made, mask="negative_prompt_embeds_mask")
    arguments = partial(edit_arguments, **more)
    return Family(components, arguments, by_hand, TOKENS, WIDTH, masked=True, per_image=False)


def longcat_arguments(count: int) -> Pool:
    """Texts: these classes count the prompts, also where embeddings stand in their place."""
    pool = call_arguments(count, height=SIDE, width=SIDE, image=PICTURE, enable_prompt_rewrite=False)
    del pool["prompt_embeds"]
    return pool | {"prompt": TEXTS}


EDIT = edit_family(qwen_components, latents=(4, 16))
LONGCAT = Family(longcat_components, longcat_arguments, hand_made, TOKENS, WIDTH, per_image=False)
ONE = "the class refuses more"

CASES = [
    Case("QwenImageEditPipeline", EDIT, area=SIDE * SIDE),
    Case(
        "QwenImageEditInpaintPipeline",
        EDIT,
        arguments={"latents": None},
        area=SIDE * SIDE,
        one_prompt="it encodes the picture of all with the first one's generator",
    ),
    Case("QwenImageEditPlusPipeline", EDIT, area=SIDE * SIDE, one_prompt=ONE),
    Case(
        "QwenImageLayeredPipeline",
        edit_family(layered_components, layers=2),
        arguments={"prompt": TEXTS, "image": PICTURE.convert("RGBA"), "output_type": "pt"},
        area=SIDE * SIDE,
        one_prompt="it sorts the layers of several wrongly",
    ),
    Case("LongCatImagePipeline", LONGCAT, one_prompt="it takes the rows of several for one prompt's"),
    Case("LongCatImageEditPipeline", LONGCAT, area=SIDE * SIDE, one_prompt=ONE),
]
