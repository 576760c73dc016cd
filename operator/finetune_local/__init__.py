"""A laptop's stand-in for the cluster and the object store: API server, Job controller, node agent, S3."""
