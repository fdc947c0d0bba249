"""Serving a detector: Azure ML's schema, its scoring server, other deployments, and a demo page."""
