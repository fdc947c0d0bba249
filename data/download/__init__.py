"""Published data sets, whole or not at all."""
