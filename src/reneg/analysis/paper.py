"""What the paper (arXiv 2412.19637) prints, to stand beside what is measured."""

TABLE_1 = {"n": 5.1e-4, "all weights": 1.5e-6, "LoRA r=8": 8.1e-8, "LoRA r=16": 1.9e-9}
"""E(theta) on SD 1.5."""
TABLE_1_SIZES = {"n": 77 * 768, "all weights": 859_520_964, "LoRA r=8": 1_594_368, "LoRA r=16": 3_188_736}
"""d of the same: not printed, but known of SD 1.5, LoRA on all attention projections."""
TABLE_1_LATENT = 4 * 64 * 64
"""D of SD 1.5 at 512 x 512."""

TABLE_2_COLUMNS = (
    "HPSv2 animation",
    "HPSv2 concept-art",
    "HPSv2 paintings",
    "HPSv2 photo",
    "Parti PickScore",
    "Parti aesthetic",
    "Parti HPSv2.1",
)
TABLE_2 = {
    "SD1.5": (25.92, 24.66, 24.65, 25.62, 18.40, 5.23, 25.67),
    "SD1.5 + N*": (27.29, 26.33, 26.39, 27.01, 19.14, 5.26, 26.79),
    "BeautifulPrompt": (24.07, 23.95, 23.99, 21.40, 19.38, 5.78, 22.72),
    "Promptist": (26.22, 25.11, 25.14, 24.25, 19.44, 5.42, 25.24),
    "DNP": (26.02, 25.08, 24.89, 25.49, 19.81, 5.21, 25.83),
    "DDPO-Aesthetic": (18.20, 19.03, 19.15, 18.93, 19.23, 4.99, 20.69),
    "DDPO-Alignment": (20.45, 20.53, 20.12, 20.33, 19.29, 4.93, 19.00),
    "Diffusion-DPO": (27.60, 26.42, 26.36, 26.32, 19.48, 5.26, 26.62),
    "ReFL": (29.04, 28.34, 28.21, 27.48, 18.17, 5.48, 27.97),
    "TextCrafter (Text)": (30.16, 30.48, 30.46, 28.36, 19.17, 5.90, 28.36),
    "Global Neg. Emb.": (31.37, 31.67, 32.00, 29.27, 19.90, 5.45, 29.16),
    "Per-sample Neg. Emb.": (32.21, 32.52, 32.83, 30.00, 19.97, 5.50, 29.84),
}
"""On SD 1.5: HPSv2.1 on HPSv2's four groups; PickScore, aesthetic and HPSv2.1 on PartiPrompts."""
TABLE_3 = {
    "sd1.4": {"anime": 0.91, "concept-art": 0.95, "paintings": 0.97, "photo": 0.87, "average": 0.93},
    "sd1.5": {"anime": 0.99, "concept-art": 0.99, "paintings": 0.98, "photo": 0.99, "average": 0.99},
    "sd2.1": {"anime": 0.96, "concept-art": 0.98, "paintings": 0.98, "photo": 0.93, "average": 0.96},
}
"""Win rates of the learned embedding against N* on HPSv2, by HPSv2.1. Fig. 7 prints no figures that can be read."""
