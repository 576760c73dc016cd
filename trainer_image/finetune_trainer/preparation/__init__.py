"""From data files to examples: records, what a template makes of them, tokens, and which of these are learned."""
