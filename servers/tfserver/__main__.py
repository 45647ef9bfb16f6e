"""``python -m tfserver --model_dir PATH --model_name NAME``: serve one SavedModel."""

import sys

from modelserver import cli
from tfserver import predictor

if __name__ == "__main__":
    sys.exit(cli.main(predictor=predictor))
