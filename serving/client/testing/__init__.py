"""For tests of code that asks a server: a server in memory, and a recorder of a real one.

from serving.client.testing import FakeServer

server = FakeServer()
server.add("tiny", lambda image: {"score": image.mean((1, 2))}, inputs={"image": ("float32", (None, 2, 2))})
with server.client() as client:
    client.predict("tiny", np.zeros((1, 2, 2), np.float32))
"""

from serving.client.testing.fake import FakeServer
from serving.client.testing.recorder import Recorder

__all__ = ["FakeServer", "Recorder"]
