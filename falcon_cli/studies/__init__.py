"""Studies for makers of falcon, `python -m falcon_cli.studies NAME KEY=VALUE ...`: cost, profile, quality, roofline."""
