"""Pipeline classes for which a negative embedding cannot be given, and why."""

_NO_GUIDANCE = "it is distilled to run without classifier-free guidance, so there is no negative branch"
_IMAGE_EMBEDS = "its negative embedding is an image encoder's, not a text encoder's; give its prior a negative prompt"
_ONNX = "it runs ONNX sessions on numpy arrays; give it negative_prompt_embeds.repeat(n, 1, 1).numpy() yourself"
_TEXT_ONLY = "its __call__ takes a negative prompt as text only"

_REASONS: tuple[tuple[str, str], ...] = (
    (
        _NO_GUIDANCE,
        """
        LatentConsistencyModelPipeline LatentConsistencyModelImg2ImgPipeline SanaSprintPipeline
        SanaSprintImg2ImgPipeline Flux2Pipeline Flux2KleinKVPipeline DreamLiteMobilePipeline
        """,
    ),
    (
        "it always runs at a distilled guidance, without a negative branch",
        """
        FluxControlPipeline FluxControlImg2ImgPipeline FluxControlInpaintPipeline FluxControlNetImg2ImgPipeline
        FluxControlNetInpaintPipeline FluxFillPipeline VisualClozePipeline VisualClozeGenerationPipeline
        """,
    ),
    (
        _IMAGE_EMBEDS,
        """
        KandinskyPipeline KandinskyImg2ImgPipeline KandinskyInpaintPipeline KandinskyV22Pipeline
        KandinskyV22ControlnetPipeline KandinskyV22ControlnetImg2ImgPipeline KandinskyV22Img2ImgPipeline
        KandinskyV22InpaintPipeline
        """,
    ),
    (
        _ONNX,
        """
        OnnxStableDiffusionPipeline StableDiffusionOnnxPipeline OnnxStableDiffusionImg2ImgPipeline
        OnnxStableDiffusionInpaintPipeline OnnxStableDiffusionUpscalePipeline OnnxStableDiffusionInpaintPipelineLegacy
        """,
    ),
    (
        _TEXT_ONLY,
        """
        BriaFiboPipeline BriaFiboEditPipeline Cosmos3OmniPipeline SemanticStableDiffusionPipeline
        StableDiffusionPipelineSafe TextToVideoZeroPipeline VersatileDiffusionTextToImagePipeline
        WuerstchenDecoderPipeline DreamLitePipeline KandinskyCombinedPipeline KandinskyImg2ImgCombinedPipeline
        KandinskyInpaintCombinedPipeline KandinskyPriorPipeline KandinskyV22CombinedPipeline
        KandinskyV22Img2ImgCombinedPipeline KandinskyV22InpaintCombinedPipeline KandinskyV22PriorPipeline
        KandinskyV22PriorEmb2EmbPipeline LongCatAudioDiTPipeline LTXI2VLongMultiPromptPipeline
        """,
    ),
    (
        "its text embedding is one vector of the whole text (CLAP), and a file holds tokens",
        "AudioLDMPipeline MusicLDMPipeline",
    ),
    (
        "it packs the prompts of a batch into one sequence with cumulative lengths and reads two encoders; "
        "give it a negative prompt",
        "Kandinsky5T2VPipeline Kandinsky5I2IPipeline Kandinsky5I2VPipeline Kandinsky5T2IPipeline",
    ),
    (
        "its embedding carries the tokens of the picture that is edited, which differ from call to call",
        "JoyImageEditPipeline JoyImageEditPlusPipeline",
    ),
    (
        "it takes embeddings in a four-dimensional layout of its own; give it a negative prompt",
        "SanaWMPipeline BriaFibo2Pipeline",
    ),
    (
        "it puts zeros in place of a given negative embedding unless a negative text stands beside it",
        "CogView3PlusPipeline",
    ),
    (
        "it reads the pooled vector alone; give the file to its prior",
        "StableCascadeDecoderPipeline",
    ),
    (
        "its guidance compares the prompt with noise in the text's place, and it drops a given negative embedding",
        "UniDiffuserPipeline",
    ),
    (
        "it drops the pooled vector given to it and then fails for want of it",
        "KolorsImg2ImgPipeline",
    ),
    (
        "its guidance compares the prompt with edits of it, and the negative branch is the inverted picture's own",
        "LEditsPPPipelineStableDiffusion LEditsPPPipelineStableDiffusionXL",
    ),
)

REFUSED: dict[str, str] = {name: reason for reason, names in _REASONS for name in names.split()}
"""Class name -> why it is refused."""
