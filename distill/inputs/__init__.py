"""Pictures, latents and captions as batches of tensors."""
