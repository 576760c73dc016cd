"""The operator: watches FineTuneJobs and makes one Job of each.

The way of the data is one way: what the API server holds → ``Observed`` (world) → ``Decision`` (plan) → API calls,
one status write, then Events (reconcile).
"""
