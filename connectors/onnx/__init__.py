"""Small models in ONNX, run by onnxruntime: vectors of texts, and whether two questions ask the same."""
