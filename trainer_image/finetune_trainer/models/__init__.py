"""The model: where it comes from, whether its files may be trusted, and how it computes."""
