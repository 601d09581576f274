"""Google Cloud Tasks for data analysts in Jupyter."""
