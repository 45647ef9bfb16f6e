"""Serve the archive that `train.py` makes; train first where it is absent.

By hand: `python train.py && python -m modelserver iris=iris.tgz`. Flags of the server can be added:
`python serve.py --http_port 8081 --workers 2`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
parser.add_argument("--output", type=Path, default=HERE, help="folder of the archive")
options, server_flags = parser.parse_known_args()

archive = options.output / "iris.tgz"

if not archive.exists():
    train = [sys.executable, str(HERE / "train.py"), "--output", str(options.output)]
    subprocess.run(train, check=True)

serve = [sys.executable, "-m", "modelserver", f"iris={archive}", *server_flags]
os.execv(serve[0], serve)  # becomes the server: same process id, so signals arrive
