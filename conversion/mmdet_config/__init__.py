"""Reading the text of an MMDetection config, and writing one, without running it."""
