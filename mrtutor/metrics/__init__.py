"""What is measured: every figure with its number of slices, its patients, a 95 % interval and a null."""
