"""After a study: exporting a trial, and training with its configuration."""
