"""Models and datasets by their Hugging Face name."""
