"""Token-tree shapes; knows no model."""
