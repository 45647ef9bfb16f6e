"""``python -m pytorchserver --model_dir DIR_OR_ARCHIVE --model_name NAME``: KServe's command, same flags."""

from __future__ import annotations

import sys

from modelserver import cli
from pytorchserver import predictor

if __name__ == "__main__":
    sys.exit(cli.main(predictor=predictor))
