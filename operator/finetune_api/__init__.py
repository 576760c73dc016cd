"""The contract: what a FineTuneJob is, and what operator and trainer say to each other.

Standard library and pydantic only, so that every image and every tool can read it.
"""
