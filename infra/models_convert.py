"""Turns a GGUF file into a folder that loads in seconds: `python -m infra.models_convert FILE.gguf FOLDER`.

It is a program of its own, because unpacking the weights takes gigabytes that the caller should not keep. Reading GGUF costs
18 s for 135 M parameters at every start (the tokenizer alone 6 s); the folder that this writes loads in about one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any


def convert(gguf: Path, folder: Path) -> None:
    """Write config.json, tokenizer, model.safetensors (float32) and made_with.json into `folder`, which exists.

    Raises whatever transformers raises for a file that is no GGUF or of an architecture that it can't read.
    """
    import torch  # noqa: PLC0415  # these two cost 5 s: a wrong call must not wait for them
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    correct_tokenizer(tokenizer, model.config)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(plain_config(model), indent=1))
    write_weights(model, folder / "model.safetensors")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "gguf", "safetensors")}
    (folder / "made_with.json").write_text(json.dumps(versions))


def correct_tokenizer(tokenizer: Any, config: Any) -> None:
    """Set the special tokens by the ids of the GGUF header, which are in `config`, and decode byte for byte.

    transformers 5.17 gives a Llama tokenizer from GGUF the begin token as its end token, so that answers would never end; and its
    clean-up of spaces would change what the model wrote (" ." becomes ".").
    """
    tokenizer.clean_up_tokenization_spaces = False
    for kind in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token_id = getattr(config, f"{kind}_id", None)
        if token_id is not None:
            setattr(tokenizer, kind, tokenizer.convert_ids_to_tokens(token_id))


def plain_config(model: Any) -> dict[str, Any]:
    """The model's configuration without its quantisation: the weights are plain now, and save_pretrained would refuse."""
    config: dict[str, Any] = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    return config | {"architectures": [type(model).__name__], "dtype": "float32"}


def write_weights(model: Any, path: Path) -> None:
    """Write the weights; a head that is tied to the embedding is left out, since safetensors refuses shared memory."""
    from safetensors.torch import save_file  # noqa: PLC0415  # imports torch

    dropped = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in dropped}
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # save_file writes 0600; a service under another user must be able to map it


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the file; nothing may be fetched behind the user's back
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
