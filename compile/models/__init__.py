"""Models: named ones with their weights, and ONNX files."""
