"""Causal language models with random weights, in the layouts of the published rewriters, built without a file."""

# transformers' annotations contradict its code.
# pyright: reportArgumentType=false

from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "</s>"


def tiny_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, as GPT-2's and BLOOM's are byte-level."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([""], vocab_size=257, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=END)


def tiny_gpt2() -> Any:
    """Promptist's architecture, with an end-of-text token that comes up now and then."""
    config = GPT2Config(
        vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    return _drawn(GPT2LMHeadModel, config)


def tiny_bloom() -> Any:
    """BeautifulPrompt's architecture."""
    config = BloomConfig(vocab_size=257, hidden_size=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return _drawn(BloomForCausalLM, config)


def _drawn(model_class, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config).eval()
        for parameter in model.parameters():  # far from uniform, so that different prompts go on differently
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model
