"""Checkpoint to ONNX to engine, and the proof that each is the same function."""
