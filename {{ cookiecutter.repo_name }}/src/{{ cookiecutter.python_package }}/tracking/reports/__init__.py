"""What one sees of metrics: while a pipeline runs, after it, and by `kedro metrics`."""
