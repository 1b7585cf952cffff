"""From files and folders of any kind to a dataset folder. No torch."""
