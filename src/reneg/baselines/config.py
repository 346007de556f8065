"""The settings of the baselines; defaults are their authors' where they are known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reneg.config import ModelConfig, require


@dataclass
class PromptwiseConfig(ModelConfig):
    """What the methods share that give every prompt a text of its own."""

    prompts: Path | None = None
    """A public set (hpsv2, parti, drawbench, vbench; some groups: hpsv2:anime,photo), or a .txt, .json, .jsonl, .tsv
    or .csv file; null takes the world's evaluation set, as evaluate does."""
    max_prompts: int | None = None
    """Take so many prompts of each group, spread evenly, as evaluate does; null takes all."""
    batch_size: int = 16
    """Pictures sampled at once; does not change the result."""
    seed: int = 0
    """Fixes what is drawn: it depends on the seed and the prompt alone, and is never an evaluation's noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("batch_size")
        require(self.max_prompts is None or self.max_prompts >= 1, f"--max_prompts {self.max_prompts}: at least 1")


@dataclass
class DnpConfig(PromptwiseConfig):
    """DNP (Desai & Vasconcelos 2024, arXiv 2411.05473): sample the picture that complies least with the prompt,
    caption it, and take the caption as negative prompt."""

    captioner: str | None = None
    """The folder or hub id of a BLIP captioning model, or `nearest`: the world's training caption that is nearest to
    the picture by world/preference. Null takes nearest for the world, Salesforce/blip-image-captioning-large
    otherwise."""
    output_dir: Path = Path("runs/dnp")
    """negatives.jsonl and the opposite pictures; what is there already, for the same settings, is not made again."""


@dataclass
class DpoDiffConfig(PromptwiseConfig):
    """DPO-Diff (Wang et al. 2024, arXiv 2407.01606): search the words of the negative prompt that raise a reward."""

    reward: str = "world/preference"
    """The reward that is maximised. The authors' is the similarity of CLIP (clipscore)."""
    search: Literal["evolution", "gradient", "hybrid"] = "evolution"
    """evolution needs no gradient, and is what the authors' repository advises; gradient learns a distribution of
    words by the shortcut text gradient and draws from it; hybrid lets the evolution start from that distribution."""
    antonyms: Path | None = None
    """A .json file of the antonym space as the authors publish it, {prompt: {"antonym": {word: [opposites]}}}; null
    takes the words that exclude the prompt's own in the world's captions, and none for other models."""
    library_slots: int = 4
    """How many words may come from a library of faults, which is split evenly: those of the world's captions, or of
    the hand-written negative prompt for other models. Authors' NPLib space: 4; 0 leaves the library out."""
    num_noises: int = 2
    """Fixed noises of a prompt on whose pictures a candidate is judged."""
    num_candidates: int = 40
    """How many negative prompts are judged for each prompt, the null text among them (authors' evolution: 40)."""
    population: int = 20
    """Candidates of a generation (authors: 20)."""
    parents: int = 10
    """The best candidates so far, from which a generation is bred (authors: 10)."""
    mutation_rate: float = 0.1
    """Chance of each word to be drawn anew in a mutation (authors: 0.1)."""
    gradient_iterations: int = 20
    """Updates of the distribution of words (authors: 20)."""
    shortcut_step_range: tuple[int, int] = (9, 14)
    """First and last step_index that carry the shortcut gradient, from one to the other over the iterations (authors:
    15 to 24 of 50)."""
    shortcut_learning_rate: float = 0.1
    """Of the distribution's logarithms, with RMSprop (authors: 0.1)."""
    output_dir: Path = Path("runs/dpo-diff")
    """negatives.jsonl; what is there already, for the same settings, is not searched again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_noises", "num_candidates", "population", "parents", "gradient_iterations")
        require(self.library_slots >= 0, f"--library_slots {self.library_slots}: must not be negative")
        rate = self.mutation_rate
        require(0 < rate <= 1, f"--mutation_rate {rate}: must be above 0, and 1 at most")
        require(
            self.shortcut_learning_rate > 0, f"--shortcut_learning_rate {self.shortcut_learning_rate}: must be above 0"
        )
        (low, high), last = self.shortcut_step_range, self.num_inference_steps - 1
        right = self.search == "evolution" or 0 <= low <= high <= last
        require(right, f"--shortcut_step_range [{low}, {high}]: must lie in 0 … {last}, in order")


@dataclass
class RewriterConfig(PromptwiseConfig):
    """What the rewriters of the positive prompt share. `--model` tells how long a prompt may be."""

    rewriter: str | None = None
    """The folder or hub id of a causal language model; null takes the world's own for the world, and the authors'
    otherwise."""
    rewriter_revision: str | None = None
    """Branch, tag or commit of the language model's hub id; null takes its main branch."""


@dataclass
class PromptistConfig(RewriterConfig):
    """Promptist (Hao et al. 2023, arXiv 2212.09611): a language model goes on from "PROMPT Rephrase:"."""

    max_new_tokens: int = 75
    """Longest rewritten prompt in the language model's tokens (authors: 75)."""
    num_beams: int = 8
    """Beams of the search, the best of which is taken (authors: 8)."""
    length_penalty: float = -1.0
    """Of the beam search; below 0 prefers short ones (authors: -1.0)."""
    output_dir: Path = Path("runs/promptist")
    """prompts.jsonl; what is there already, for the same settings, is not made again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("max_new_tokens", "num_beams")


@dataclass
class BeautifulPromptConfig(RewriterConfig):
    """BeautifulPrompt (Cao et al. 2023, arXiv 2311.06752): a language model answers an instruction."""

    max_length: int = 384
    """Longest instruction and answer together, in the language model's tokens (authors: 384)."""
    temperature: float = 1.0
    """Of sampling (authors: 1.0)."""
    top_k: int = 50
    """Sample from so many most likely tokens (authors: 50)."""
    top_p: float = 0.95
    """Sample from the most likely tokens that hold this share together (authors: 0.95)."""
    repetition_penalty: float = 1.2
    """Divides the logits of tokens that stood before, those of the instruction too (authors: 1.2)."""
    output_dir: Path = Path("runs/beautifulprompt")
    """prompts.jsonl; what is there already, for the same settings, is not made again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("max_length", "top_k")
        for name in ("temperature", "repetition_penalty"):
            require(vars(self)[name] > 0, f"--{name} {vars(self)[name]}: must be above 0")
        require(0 < self.top_p <= 1, f"--top_p {self.top_p}: must be above 0, and 1 at most")
