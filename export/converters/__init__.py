"""One network to one format: ONNX, OpenVINO, Core ML, single graphs, and their quantisation."""
