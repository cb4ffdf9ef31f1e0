"""Adapters of `streams.semantic.ports.VectorIndex`: in process, and Milvus."""
