"""What belongs to the process and not to one MLflow run; its owner is ``ProcessState``."""
