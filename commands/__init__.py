"""The command `ddetr`, one file per verb. Nothing here imports torch or transformers before a verb runs."""
