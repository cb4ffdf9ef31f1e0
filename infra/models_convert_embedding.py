"""Turns a sentence transformer's files into ONNX, float and int8: `python -m infra.models_convert_embedding SOURCE FOLDER`.

A program of its own, because torch's exporter takes gigabytes that the caller should not keep. Mean pooling and normalisation are in
the graph, so that whoever runs it needs neither torch nor the model's conventions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

_CHECKED = (  # unlike lengths, so that padding is checked, too
    "Hello", "How do I reset my password?", "What is the boiling point of water at an altitude of 2,000 metres above the sea?",
    "Is 5 mg of melatonin too much for an adult who weighs 60 kg, or should I rather take 3 mg an hour before I go to bed?",
)  # fmt: skip
_FLOAT_LEAST, _INT8_LEAST = 0.9999, 0.97  # cosine to torch's vectors; a wrong export is far below both


def convert(source: Path, folder: Path) -> None:
    """Write float.onnx, int8.onnx, tokenizer.json, config.json, embedding.json and made_with.json into `folder`, which exists.

    Raises ValueError where the ONNX models' vectors are not torch's.
    """
    import torch  # noqa: PLC0415  # these cost seconds: a wrong call must not wait for them
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    model = AutoModel.from_pretrained(source, local_files_only=True, dtype=torch.float32, attn_implementation="eager").eval()
    logging.disable(logging.WARNING)  # both tools give advice at length
    export(with_pooling(model), folder / "float.onnx", ("input_ids", "attention_mask"), "vectors")
    quantize_dynamic(folder / "float.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    (folder / "config.json").write_text((source / "config.json").read_text())
    shutil.copy(source / "tokenizer.json", folder)
    facts = {
        "weights_sha256": hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest(),
        "dimensions": model.config.hidden_size,
        "max_tokens": json.loads((source / "sentence_bert_config.json").read_text())["max_seq_length"],
    }
    (folder / "embedding.json").write_text(json.dumps(facts))
    cosines = check(model, folder)
    (folder / "embedding.json").write_text(json.dumps({**facts, "least_cosine_to_torch": cosines}, indent=1))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")}
    (folder / "made_with.json").write_text(json.dumps(versions))


def with_pooling(model: Any) -> Any:
    """The model with the mean over its real tokens, at length 1."""
    import torch  # noqa: PLC0415

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1)

    return Pooled().eval()


def export(module: Any, path: Path, inputs: tuple[str, ...], output: str) -> None:
    """Write `module`, which takes (batch, length) int64 tensors by the names `inputs`, with both dimensions free."""
    import torch  # noqa: PLC0415

    example = tuple(torch.ones(2, 7, dtype=torch.long) for _ in inputs)
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about its own future
        torch.onnx.export(
            module, example, str(path), input_names=list(inputs), output_names=[output], opset_version=18, dynamo=True,
            dynamic_shapes=tuple({0: batch, 1: length} for _ in inputs), external_data=False, verbose=False,
        )  # fmt: skip


def check(model: Any, folder: Path) -> dict[str, float]:
    """Least cosine between torch's vectors and each ONNX model's, in a padded batch. Raises ValueError if one is too low."""
    import torch  # noqa: PLC0415

    from connectors.onnx.embedder import OnnxEmbedder, open_tokenizer, padded  # noqa: PLC0415

    ids, mask, _ = padded(open_tokenizer(folder / "tokenizer.json", 256).encode_batch(list(_CHECKED)))
    with torch.no_grad():
        wanted = with_pooling(model)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    least = {
        "float": float((OnnxEmbedder(folder, "float").embed(_CHECKED) * wanted).sum(1).min()),
        "int8": float((OnnxEmbedder(folder, "int8").embed(_CHECKED) * wanted).sum(1).min()),
    }
    if least["float"] < _FLOAT_LEAST or least["int8"] < _INT8_LEAST:
        raise ValueError(f"the exported model gives other vectors than torch, cosine {least}")
    return least


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the folder; nothing may be fetched behind the user's back
    os.environ["TQDM_DISABLE"] = "1"
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
