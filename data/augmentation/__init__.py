"""Random transforms of training images and their boxes."""
