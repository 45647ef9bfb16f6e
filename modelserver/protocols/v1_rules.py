"""Whose rules V1 bodies follow: the codec for each value of ``Model.json_rules``.

Rules of the room: the table only. Every codec has ``decode_request`` and ``encode_response``.
"""

from __future__ import annotations

from modelserver.protocols import tfs_json, v1_json

CODECS = {"kserve": v1_json, "tensorflow_serving": tfs_json}
