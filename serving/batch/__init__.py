"""Many images to one table of detections: resumable, by processes or Ray."""
