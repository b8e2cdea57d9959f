"""Discovery of GPUs."""
