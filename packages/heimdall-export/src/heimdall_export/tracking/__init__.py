"""Training runs in MLflow."""
