"""Runs networks with ONNX Runtime; knows nothing of faces."""
