"""The parts of a status that are told of a situation and its outcome."""
