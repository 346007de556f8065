"""Which models read text encodings of which shape: what an error or `reneg inspect` can say of a file's encoder."""

MODELS_BY_SHAPE: dict[tuple[int, int], str] = {
    (77, 768): "Stable Diffusion 1.x, its ControlNets and AnimateDiff (CLIP-L)",
    (77, 1024): "Stable Diffusion 2.x, ModelScope and ZeroScope (OpenCLIP-H)",
    (77, 2048): "SDXL (CLIP-L and OpenCLIP-bigG)",
    (120, 4096): "PixArt-alpha (T5-XXL)",
    (128, 4096): "LTX-Video (T5-XXL)",
    (226, 4096): "CogVideoX (T5-XXL)",
    (256, 2048): "AuraFlow (UMT5)",
    (256, 2304): "Lumina 2 (Gemma-2)",
    (256, 4096): "Mochi (T5-XXL), Kolors (ChatGLM3) or HunyuanVideo (Llama)",
    (300, 2304): "Sana (Gemma-2)",
    (300, 4096): "PixArt-Sigma (T5-XXL)",
    (333, 4096): "Stable Diffusion 3.x (CLIP-L, OpenCLIP-bigG and T5-XXL)",
    (512, 4096): "Flux.1 or Chroma (T5-XXL), or Wan 2.x (UMT5-XXL)",
}
"""(tokens, width) at the families' default lengths -> models. A shape alone proves no encoder: fine-tunes of an
encoder, and several families, share theirs."""


def models_of_shape(tokens: int, width: int) -> str:
    """The models that read encodings of a shape; without a row, that none is known."""
    return MODELS_BY_SHAPE.get((tokens, width), "no family that reneg knows")
