"""What follows a study: exporting a trial and training with it."""
