"""Studies for developers of falcon, `python -m falcon_cli.studies NAME [KEY=VALUE ...]`: measurements and models."""
