"""mosec: decodes JPEGs and runs the network in one worker."""

import thumbnail
import torch
from mosec import Server, Worker


class Thumbnails(Worker):
    def __init__(self):
        self.network = thumbnail.build()

    @torch.inference_mode()
    def forward(self, data):
        return {"predictions": self.network(thumbnail.images_of(data["instances"])).tolist()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Thumbnails)
    server.run()
