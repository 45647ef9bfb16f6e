"""LitServe: decodes JPEGs in decode_request."""

import sys

import litserve
import thumbnail
import torch


class Thumbnails(litserve.LitAPI):
    def setup(self, device):
        self.network = thumbnail.build()

    def decode_request(self, request):
        return thumbnail.images_of(request["instances"])

    @torch.inference_mode()
    def predict(self, images):
        return self.network(images)

    def encode_response(self, output):
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Thumbnails(), accelerator="cpu", fast_queue=True)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning", access_log=False)
