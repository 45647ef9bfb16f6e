"""Write a request for the photos named on the command line: `python make_request.py cat.jpg > mine.json`."""

import argparse
import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--side", type=int, default=280, help="longest side after scaling down, in pixels")
    options = parser.parse_args()
    instances = []
    for photo in options.photos:
        with Image.open(photo) as picture:
            small = picture.convert("RGB")
        small.thumbnail((options.side, options.side))
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=80)
        instances.append({"image": {"b64": base64.b64encode(jpeg.getvalue()).decode()}})
    json.dump({"instances": instances}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
