"""A detector as ONNX, torch.export or MLflow, proved against the model."""
