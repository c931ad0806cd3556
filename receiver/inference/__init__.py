"""ONNX Runtime sessions; knows nothing of faces."""
