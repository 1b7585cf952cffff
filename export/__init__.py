"""From a model folder to a bundle of graphs, checked against PyTorch."""
