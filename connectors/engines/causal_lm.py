"""A language model and its tokenizer, loaded from a folder onto one device. Importing this file imports torch: 500 MB, 8 s."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache
from transformers.utils import logging as transformers_logging

from connectors.engines.kv_batch import KvBatch
from connectors.engines.label_trie import LabelTrie, LabelTries
from streams.engine import ChatMessage
from streams.errors import PoisonError

ROLES = frozenset({"system", "user", "assistant"})


class BadMessages(PoisonError):
    """The chat template can't take these messages. Use the roles system, user and assistant, in the order the model expects."""


class UnusableModel(PoisonError):
    """The folder holds no chat model: pull one, and choose one that has a chat template (an "instruct" or "chat" variant)."""


class CausalLm:
    """Prompts in, logits out. Every call belongs to the decode thread, except `encode` and `trie`, which any thread may call."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        """Load. `device` is auto, cpu, cuda or cuda:N. `threads` > 0 bounds torch's CPU threads, for the calling thread's work alone."""
        if not (folder / "config.json").is_file():
            raise UnusableModel("no_model_files", f"{folder} has no config.json", "pull the model with: ./headrace models pull NAME")
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if threads:
            torch.set_num_threads(threads)
        transformers_logging.disable_progress_bar()  # bars make no sense in a service's log
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self._tokenizer.chat_template:
            raise UnusableModel("no_chat_template", f"{folder} has no chat template", "use the instruct variant of the model")
        # float32 on the CPU is what the weights are stored in: they stay mapped from the file, and workers share the pages.
        dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).to(self.device).eval()
        self.context = int(self.model.config.max_position_embeddings)
        self.end_ids = _end_ids(self._tokenizer.eos_token_id, self.model.config, self.model.generation_config)
        self._tries = LabelTries(self._plain_ids, self.decode, self.end_ids)
        _give_back_memory()

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of the chat, ready for the assistant's answer. Raises `BadMessages`."""
        unknown = {message.role for message in messages} - ROLES
        if unknown or not messages:
            reason = f"unknown role {min(unknown)!r}" if unknown else "no messages"
            raise BadMessages("bad_messages", reason, "use the roles system, user and assistant")
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except jinja2.TemplateError as error:  # templates refuse by raising, e.g. when roles do not alternate
            raise BadMessages("bad_messages", str(error), "order the messages as the model's chat template expects") from error
        try:
            return self._plain_ids(text)
        except (UnicodeError, TypeError) as error:  # half of a surrogate pair, which JSON can carry and UTF-8 can't
            raise BadMessages("bad_messages", "the text is not valid Unicode", "send text that can be written as UTF-8") from error

    def trie(self, labels: tuple[str, ...]) -> LabelTrie:
        """What leads to one of the labels. Any thread may call it. Raises `BadLabels`."""
        return self._tries.of(labels)

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids without special tokens, byte for byte."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def prefill(self, token_ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """Logits (vocabulary) after `token_ids`, a part of one prompt that continues what `cache` holds and is added to it."""
        inputs = {"input_ids": torch.tensor([token_ids], device=self.device), "past_key_values": cache}
        return self._forward(inputs)[0]

    def step(self, token_ids: list[int], batch: KvBatch) -> torch.Tensor:
        """Logits (rows, vocabulary) after one more token in each row of `batch`."""
        logits = self._forward(batch.inputs(token_ids, self.device))
        batch.stepped()
        return logits

    def recover(self) -> None:
        """Give memory back after a failed step, so that the next one has room."""
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        with torch.inference_mode():
            # logits of the last position alone: those of a whole prompt of 8,192 tokens would take 1.6 GB
            logits: torch.Tensor = self.model(**inputs, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1]


def _end_ids(*sources: Any) -> frozenset[int]:
    """All token ids that end an answer: tokenizer, configuration and generation configuration may each name others."""
    found: set[int] = set()
    for source in sources:
        named = source if source is None or isinstance(source, int) else getattr(source, "eos_token_id", None)
        found.update([named] if isinstance(named, int) else named or [])
    return frozenset(found)


def _give_back_memory() -> None:
    """Return what loading freed to the system: glibc keeps it otherwise."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
