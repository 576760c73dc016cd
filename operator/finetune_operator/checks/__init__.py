"""What :func:`finetune_operator.plan.plan` looks at, one question a function.

Each gets the situation and answers with an outcome or an action, or leaves the question to the next.
"""
