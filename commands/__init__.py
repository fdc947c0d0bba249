"""The command `ddetr`, one file a verb. Nothing here imports torch or transformers before a verb runs."""
