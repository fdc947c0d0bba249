"""What a detector attends to and proposes, and how it refines boxes."""
