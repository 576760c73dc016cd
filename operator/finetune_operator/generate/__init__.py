"""Every generated file of the repository, from the models and tables that are its source.

``python -m finetune_operator.generate`` writes them, with ``--check`` it compares them.
"""
