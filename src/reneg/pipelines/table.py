"""How each diffusers pipeline class takes a negative embedding: read in diffusers 0.42.1, proven in docs/pipelines.md.

Classes are named, not imported: diffusers loads a class with all that it needs, and this table serves every one.
"""

from dataclasses import dataclass, replace
from typing import Literal

EMBEDS, POOLED, MASK = "negative_prompt_embeds", "negative_pooled_prompt_embeds", "negative_prompt_attention_mask"


@dataclass(frozen=True)
class OtherEncoder:
    """Arguments of a further text encoder, whose null text goes with the file: a file holds one encoder's output."""

    arguments: tuple[tuple[str, int], ...]
    """Argument of the pipeline, and where its value stands in what `encode_prompt` returns."""
    encode: tuple[tuple[str, int], ...] = ()
    """What else `encode_prompt` is told, such as the encoder's number."""
    batch_dim: int = 0
    """Where these tensors have their prompts."""


@dataclass(frozen=True)
class PipelineRow:
    """The arguments of one pipeline class that make up the negative branch."""

    embeds: str = EMBEDS
    pooled: str | None = None
    """Argument of the whole text's vector, if the class has one; then it is required."""
    mask: str | None = None
    """Argument of the attention mask, if the class has one."""
    mask_dtype: Literal["int", "bool", "model"] = "int"
    """What the class's own tokenizer gives; `model`: the denoiser's dtype."""
    other: OtherEncoder | None = None
    length: Literal["encoder", "padded", "free"] = "encoder"
    """`encoder`: as many tokens as the class's encoder gives. `padded`: filled up with zeros to the
    `max_sequence_length` of the class, since both branches run as one batch. `free`: any number of tokens."""
    pads_left: bool = False
    """Whether the class's tokenizer pads on the left, so that what is filled up and cut off is there."""
    per_image: bool = True
    """Whether a given embedding needs a row for each picture. Else the class repeats a prompt's row itself."""
    per_image_exceptions: tuple[str, ...] = ()
    """Arguments for which it is the other way round."""
    pooled_dims: int = 2
    """Dimensions of the pooled argument: [b, p], or [b, 1, p] for 3."""
    layers: bool = False
    """[b, l, n, d] with the encoder's `num_text_layers` layers apart, which a file holds one behind the other."""
    as_list: bool = False
    """One [l, d] tensor a prompt in a list, rather than one [b, l, d] tensor."""
    parts: bool = False
    """Whether that is a list as well, of the parts of a prompt between its pictures: one part, without a picture."""
    one_prompt: bool = False
    """Whether the class mixes up, or refuses, the negative rows of several prompts; then it is called for each."""
    reads_picture: bool = False
    """Whether its encoding of a prompt holds the tokens of a picture, so that "" alone cannot be asked for."""
    scale: str | None = "guidance_scale"
    """Argument that sets the strength of guidance; None: the pipeline's guider holds it."""
    off: float | None = 1.0
    """Guidance is off at this scale and below. None: a second scale, that of the sound, keeps the negative branch."""


_EMBEDS_MASK = "negative_prompt_embeds_mask"

_CLIP = PipelineRow(per_image=False)
_CLIP_POOLED = PipelineRow(pooled=POOLED, per_image=False)
_POOLED = PipelineRow(pooled=POOLED)
_MASKED = PipelineRow(mask=MASK, length="padded", per_image=False)
_MASKED_PER_IMAGE = PipelineRow(mask=MASK, length="padded")
_FIXED = PipelineRow()
_ZERO_PADDED = PipelineRow(length="padded")
_FREE = PipelineRow(length="free")
_QWEN_EDIT = PipelineRow(mask=_EMBEDS_MASK, length="free", per_image=False, reads_picture=True, scale="true_cfg_scale")
_CASCADE = "negative_prompt_embeds_pooled"
_GLYPHS = OtherEncoder((("negative_prompt_embeds_2", 2), ("negative_prompt_embeds_mask_2", 3)))
_T5_OF_HUNYUAN = OtherEncoder(
    (("negative_prompt_embeds_2", 0), ("negative_prompt_attention_mask_2", 2)), encode=(("text_encoder_index", 1),)
)

_FAMILIES: tuple[tuple[PipelineRow, str], ...] = (
    (  # Stable Diffusion 1.x and 2.x and what is built on them
        _CLIP,
        """
        StableDiffusionPipeline StableDiffusionImg2ImgPipeline StableDiffusionInpaintPipeline
        StableDiffusionControlNetPipeline StableDiffusionControlNetImg2ImgPipeline
        StableDiffusionControlNetInpaintPipeline StableDiffusionAdapterPipeline
        StableDiffusionDepth2ImgPipeline StableDiffusionUpscalePipeline StableDiffusionInstructPix2PixPipeline
        StableDiffusionPAGPipeline StableDiffusionPAGImg2ImgPipeline StableDiffusionPAGInpaintPipeline
        StableDiffusionControlNetPAGPipeline StableDiffusionControlNetPAGInpaintPipeline
        StableUnCLIPPipeline StableUnCLIPImg2ImgPipeline
        AnimateDiffPipeline AnimateDiffControlNetPipeline AnimateDiffSparseControlNetPipeline
        AnimateDiffVideoToVideoPipeline AnimateDiffVideoToVideoControlNetPipeline AnimateDiffPAGPipeline
        PIAPipeline TextToVideoSDPipeline VideoToVideoSDPipeline I2VGenXLPipeline
        AltDiffusionPipeline AltDiffusionImg2ImgPipeline StableDiffusionControlNetXSPipeline
        StableDiffusionAttendAndExcitePipeline StableDiffusionDiffEditPipeline StableDiffusionGLIGENPipeline
        StableDiffusionGLIGENTextImagePipeline StableDiffusionLDM3DPipeline
        StableDiffusionSAGPipeline StableDiffusionInpaintPipelineLegacy StableDiffusionModelEditingPipeline
        StableDiffusionParadigmsPipeline StableDiffusionPix2PixZeroPipeline
        """,
    ),
    (PipelineRow(per_image=False, one_prompt=True), "StableDiffusionPanoramaPipeline"),
    (  # Stable Diffusion XL
        _CLIP_POOLED,
        """
        StableDiffusionXLPipeline StableDiffusionXLImg2ImgPipeline StableDiffusionXLInpaintPipeline
        StableDiffusionXLControlNetPipeline StableDiffusionXLControlNetImg2ImgPipeline
        StableDiffusionXLControlNetInpaintPipeline StableDiffusionXLControlNetUnionPipeline
        StableDiffusionXLControlNetUnionImg2ImgPipeline StableDiffusionXLControlNetUnionInpaintPipeline
        StableDiffusionXLControlNetXSPipeline StableDiffusionXLAdapterPipeline
        StableDiffusionXLInstructPix2PixPipeline StableDiffusionXLPAGPipeline StableDiffusionXLPAGImg2ImgPipeline
        StableDiffusionXLPAGInpaintPipeline StableDiffusionXLControlNetPAGPipeline
        StableDiffusionXLControlNetPAGImg2ImgPipeline AnimateDiffSDXLPipeline TextToVideoZeroSDXLPipeline
        Kandinsky6TI2VAPipeline
        """,
    ),
    (  # SD3
        _POOLED,
        """
        StableDiffusion3Pipeline StableDiffusion3Img2ImgPipeline StableDiffusion3InpaintPipeline
        StableDiffusion3ControlNetPipeline StableDiffusion3ControlNetInpaintingPipeline
        StableDiffusion3PAGPipeline StableDiffusion3PAGImg2ImgPipeline
        """,
    ),
    (_MASKED, "PixArtAlphaPipeline PixArtSigmaPipeline PixArtSigmaPAGPipeline"),
    (
        _MASKED,
        "SanaPipeline SanaPAGPipeline SanaControlNetPipeline SanaVideoPipeline SanaImageToVideoPipeline",
    ),
    (_MASKED, "AllegroPipeline AuraFlowPipeline"),
    (
        PipelineRow(mask=MASK, mask_dtype="bool", per_image=False, one_prompt=True),
        "PRXPipeline PRXPixelPipeline",
    ),
    (
        PipelineRow(pooled=POOLED, length="free", scale="true_cfg_scale"),
        """
        FluxPipeline FluxImg2ImgPipeline FluxInpaintPipeline FluxControlNetPipeline FluxKontextPipeline
        FluxKontextInpaintPipeline
        """,
    ),
    (PipelineRow(length="free", per_image=False), "Flux2KleinPipeline Flux2KleinInpaintPipeline"),
    (
        PipelineRow(mask=_EMBEDS_MASK, length="free", per_image=False, scale="true_cfg_scale"),
        """
        QwenImagePipeline QwenImageImg2ImgPipeline QwenImageInpaintPipeline QwenImageControlNetPipeline
        QwenImageControlNetInpaintPipeline QwenImageLayeredPipeline QwenImage21Pipeline
        """,
    ),
    (_QWEN_EDIT, "QwenImageEditPipeline QwenImageEditInpaintPipeline"),
    (replace(_QWEN_EDIT, one_prompt=True), "QwenImageEditPlusPipeline"),
    (
        _ZERO_PADDED,
        """
        WanPipeline WanImageToVideoPipeline WanVideoToVideoPipeline WanAnimatePipeline
        SkyReelsV2Pipeline SkyReelsV2ImageToVideoPipeline SkyReelsV2DiffusionForcingPipeline
        SkyReelsV2DiffusionForcingImageToVideoPipeline SkyReelsV2DiffusionForcingVideoToVideoPipeline
        ChronoEditPipeline LucyEditPipeline AnyFlowPipeline AnyFlowFARPipeline HeliosPipeline HeliosPyramidPipeline
        CosmosTextToWorldPipeline CosmosVideoToWorldPipeline Cosmos2TextToImagePipeline Cosmos2VideoToWorldPipeline
        """,
    ),
    (PipelineRow(length="padded", one_prompt=True), "WanVACEPipeline"),
    (
        _FIXED,
        """
        CogVideoXPipeline CogVideoXImageToVideoPipeline CogVideoXVideoToVideoPipeline CogVideoXFunControlPipeline
        ConsisIDPipeline BriaPipeline Cosmos2_5_PredictBasePipeline Cosmos2_5_TransferPipeline
        """,
    ),
    (
        _MASKED_PER_IMAGE,
        """
        LTXPipeline LTXConditionPipeline LTXImageToVideoPipeline MochiPipeline LuminaPipeline Lumina2Pipeline
        """,
    ),
    (
        PipelineRow(mask=MASK, length="padded", pads_left=True, off=None),
        "LTX2Pipeline LTX2ConditionPipeline LTX2ImageToVideoPipeline LTX2InContextPipeline",
    ),
    (PipelineRow(mask=MASK, length="padded", pads_left=True), "LTX2HDRPipeline"),
    (
        PipelineRow(mask=MASK, mask_dtype="model", length="padded"),
        "ChromaPipeline ChromaImg2ImgPipeline ChromaInpaintPipeline",
    ),
    (
        PipelineRow(mask=MASK, mask_dtype="bool", length="padded", scale=None),
        "MotifVideoPipeline MotifVideoImage2VideoPipeline",
    ),
    (
        PipelineRow(
            mask=MASK,
            other=_T5_OF_HUNYUAN,
            per_image=False,
            per_image_exceptions=(MASK, "negative_prompt_attention_mask_2"),
        ),
        "HunyuanDiTPipeline HunyuanDiTControlNetPipeline HunyuanDiTPAGPipeline",
    ),
    (
        PipelineRow(pooled=POOLED, per_image=False, per_image_exceptions=(EMBEDS,)),
        "KolorsPipeline KolorsPAGPipeline",
    ),
    (_FREE, "CogView4Pipeline CogView4ControlPipeline GlmImagePipeline"),
    (PipelineRow(length="free", per_image=False), "OvisImagePipeline"),
    (
        PipelineRow(length="free", per_image=False, one_prompt=True),
        "LongCatImagePipeline",
    ),
    (
        PipelineRow(length="free", per_image=False, one_prompt=True, reads_picture=True),
        "LongCatImageEditPipeline",
    ),
    (
        PipelineRow(length="free", per_image=False, as_list=True, off=0.0),
        """
        ZImagePipeline ZImageImg2ImgPipeline ZImageInpaintPipeline ZImageControlNetPipeline
        ZImageControlNetInpaintPipeline
        """,
    ),
    (PipelineRow(length="free", per_image=False, as_list=True, parts=True, off=0.0), "ZImageOmniPipeline"),
    (PipelineRow(length="free", per_image=False, as_list=True), "ErnieImagePipeline"),
    (PipelineRow(mask=_EMBEDS_MASK, mask_dtype="bool", per_image=False, layers=True, off=0.0), "Krea2Pipeline"),
    (
        PipelineRow(mask=_EMBEDS_MASK, mask_dtype="bool", length="free", per_image=False),
        "NucleusMoEImagePipeline",
    ),
    (
        PipelineRow(
            embeds="negative_prompt_embeds_t5",
            pooled=POOLED,
            other=OtherEncoder((("negative_prompt_embeds_llama3", 2),), batch_dim=1),
            per_image=False,
        ),
        "HiDreamImagePipeline",
    ),
    (
        PipelineRow(pooled=POOLED, mask=MASK, length="free", scale="true_cfg_scale"),
        """
        HunyuanVideoPipeline HunyuanVideoImageToVideoPipeline HunyuanVideoFramepackPipeline
        HunyuanSkyreelsImageToVideoPipeline
        """,
    ),
    (
        PipelineRow(mask=_EMBEDS_MASK, other=_GLYPHS, length="free", per_image=False, scale=None),
        "HunyuanImagePipeline HunyuanVideo15Pipeline HunyuanVideo15ImageToVideoPipeline",
    ),
    (PipelineRow(mask=_EMBEDS_MASK, length="free", per_image=False, scale=None), "HunyuanImageRefinerPipeline"),
    (
        PipelineRow(mask=MASK, per_image=False, per_image_exceptions=(MASK,)),
        "EasyAnimatePipeline EasyAnimateControlPipeline EasyAnimateInpaintPipeline",
    ),
    (
        _CLIP,
        """
        IFPipeline IFImg2ImgPipeline IFInpaintingPipeline IFSuperResolutionPipeline IFImg2ImgSuperResolutionPipeline
        IFInpaintingSuperResolutionPipeline LattePipeline WuerstchenPriorPipeline
        """,
    ),
    (PipelineRow(per_image=False, scale="prior_guidance_scale"), "WuerstchenCombinedPipeline"),
    (PipelineRow(pooled=_CASCADE, pooled_dims=3, per_image=False), "StableCascadePriorPipeline"),
    (
        PipelineRow(pooled=_CASCADE, pooled_dims=3, per_image=False, scale="prior_guidance_scale"),
        "StableCascadeCombinedPipeline",
    ),
    (
        PipelineRow(embeds="negative_encoder_hidden_states", pooled=EMBEDS, per_image=False),
        "AmusedPipeline AmusedImg2ImgPipeline AmusedInpaintPipeline",
    ),
    (PipelineRow(mask="negative_attention_mask", per_image=False), "Kandinsky3Pipeline Kandinsky3Img2ImgPipeline"),
    (_POOLED, "StableDiffusionLatentUpscalePipeline"),
    (
        PipelineRow(
            mask="negative_attention_mask",
            other=OtherEncoder((("negative_generated_prompt_embeds", 2),)),
            length="free",
            per_image=False,
        ),
        "AudioLDM2Pipeline",
    ),
    (PipelineRow(mask="negative_attention_mask", per_image=False), "StableAudioPipeline"),
    (PipelineRow(mask="negative_encoder_attention_mask", per_image=False), "StableAudio3Pipeline"),
)

PIPELINES: dict[str, PipelineRow] = {name: row for row, names in _FAMILIES for name in names.split()}
"""Class name -> its row."""
