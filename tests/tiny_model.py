"""A tiny random Llama with a byte-level tokenizer, made here without any download: about 1 ms a token, for tests of behaviour."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, seed: int, context: int = 512, *, layers: int = 2, hidden: int = 64, ends: bool = False) -> Path:
    """Write Hugging Face files of a random model into `folder`, and return it. The same seed makes the same model.

    Unless it `ends`, a greedy answer never holds the end token, so that it is as long as asked (a sampled one may, rarely).
    Its vocabulary is the 256 bytes and two special tokens, so its answers are random bytes, mostly not valid UTF-8.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,  # grouped, as in the models that are really served
        max_position_embeddings=context,
        initializer_range=0.2,  # the usual 0.02 makes all tokens nearly equally likely, and greedy choices a matter of rounding
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    if not ends:  # a logit of 0, where the best of 256 random ones is well above
        model.lm_head.weight.data[[tokenizer.bos_token_id, tokenizer.eos_token_id]] = 0
    model.save_pretrained(folder)
    torch.set_rng_state(before)  # other tests own the global generator
    return folder


def _byte_tokenizer():  # noqa: ANN202  # transformers has no types
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)])
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
    wrapped.chat_template = TEMPLATE
    return wrapped
