"""What trainings are of."""
