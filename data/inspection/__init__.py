"""What a data set holds, and every defect in it."""
