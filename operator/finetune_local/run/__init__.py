"""``python -m finetune_local run``: FineTuneJobs from a file, from upload to adapter."""
