"""How many bits each layer is stored in."""
