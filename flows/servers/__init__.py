"""Prefect, MLflow and Ray for as long as a command needs them."""
