"""Checkpoints whose weights come quantised."""

from falcon_cli.target.quantised.form import StoredForm, stored_form

__all__ = ["StoredForm", "stored_form"]
