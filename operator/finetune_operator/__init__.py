"""The operator: watches FineTuneJobs, runs their Jobs, writes their status."""
