"""MLflow and `mar watch`. The only package that knows MLflow.

mlflow_sync: MLflow filled from a study's files. watch: running trainings on the terminal.

May import: runtime, study, weights, report.
"""
