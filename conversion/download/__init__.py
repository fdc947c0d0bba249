"""Published checkpoints by name, URLs and models of the Hub: fetched only when a user names one."""
