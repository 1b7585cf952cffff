"""What an exported graph is measured by: parity with PyTorch, layers, pictures, hashes."""
