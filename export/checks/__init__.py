"""How an exported graph is measured: parity with PyTorch, layers, pictures, hashes."""
