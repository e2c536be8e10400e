"""One MLflow tracking store as one object; all private MLflow API of stores is used in here."""
