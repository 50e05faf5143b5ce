"""What is asked of a trained model, in a file each: `eval`, `lengths`, `repeats`, `generate`."""
