"""The proof of a conversion: the real MMDetection, or transformers, beside this package, compared."""
