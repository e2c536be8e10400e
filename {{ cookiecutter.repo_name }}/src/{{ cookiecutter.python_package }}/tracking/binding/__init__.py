"""Which metrics datasets a pipeline has, and which MLflow run each of them writes and reads."""
