"""The loop, and everything that decides what a step is: batches, loss, learning rate, memory, state."""
