"""The quickstart: Python's own documentation → a small base model → an adapter that is better than its base."""
