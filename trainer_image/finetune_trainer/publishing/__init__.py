"""The result: its files, its report, its model card, and how they come to S3 whole or not at all."""
