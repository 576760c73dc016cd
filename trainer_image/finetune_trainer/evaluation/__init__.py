"""What a model is worth: measures on held-out examples, and answers for people to read."""
