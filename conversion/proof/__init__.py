"""The proof of a conversion: the real MMDetection beside this package, compared."""
