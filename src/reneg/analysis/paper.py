"""What the paper (arXiv 2412.19637) prints, to stand beside what is measured."""

TABLE_1 = {"n": 5.1e-4, "all weights": 1.5e-6, "LoRA r=8": 8.1e-8, "LoRA r=16": 1.9e-9}
"""E(theta) on SD 1.5."""
TABLE_1_SIZES = {"n": 77 * 768, "all weights": 859_520_964, "LoRA r=8": 1_594_368, "LoRA r=16": 3_188_736}
"""d of the same: not printed, but known of SD 1.5, LoRA on all attention projections."""
TABLE_1_LATENT = 4 * 64 * 64
"""D of SD 1.5 at 512 x 512."""
