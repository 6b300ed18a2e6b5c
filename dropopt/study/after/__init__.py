"""What follows a study: the export of a trial, and training with its configuration."""
