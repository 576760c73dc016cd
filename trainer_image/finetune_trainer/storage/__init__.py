"""S3: objects into files and back, whole or not at all, whatever a server does meanwhile. Needs no torch."""
