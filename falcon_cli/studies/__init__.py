"""Studies for developers of falcon, `python -m falcon_cli.studies NAME [KEY=VALUE ...]`: measurements and models."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler writes to stderr; it asks for this as it is loaded
