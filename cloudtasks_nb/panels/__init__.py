"""ipywidgets panels over the public API, one file a panel."""
