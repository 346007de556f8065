"""Per-sample negative embeddings: Algorithm 1 of ReNeg (arXiv 2412.19637), many prompts at once."""
