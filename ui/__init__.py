"""The pages: one file each, thin over VideoGenerator."""
