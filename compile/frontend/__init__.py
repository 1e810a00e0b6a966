"""The ONNX frontend: from a file to a Relax module."""
