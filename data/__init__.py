"""Detection data sets: formats in and out, label map, augmentation, collation, inspection."""
