"""What would stop or spoil a run, found before GPUs are reserved: all problems at once."""
