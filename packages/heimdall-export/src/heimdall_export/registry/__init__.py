"""The MLflow model registry: versions, production, deletion."""
