"""A detector on the Hugging Face Hub: push, model card, handler of an endpoint."""
