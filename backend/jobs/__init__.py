"""What a job is, where it is kept, how one is run."""
