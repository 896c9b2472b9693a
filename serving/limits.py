"""The one table of limits: what may arrive, and how much of it.

Each has a test in tests/serving/test_limits.py. A server sets others with `[limits]` in its
configuration file; they are fixed before the first request and the same for every protocol.
"""

import sys
from dataclasses import dataclass, fields


@dataclass(slots=True)
class Limits:
    """What is taken; one more is refused, with the limit in the message.

    Attributes:
        request_bytes: A body or message as it arrives.
        inflated_bytes: A compressed body, unfolded.
        json_depth: Levels of arrays and objects.
        json_lists: Arrays and objects of one JSON document: each is an object of Python, however
            few bytes it has. An image of 224 x 224 pixels as nested lists has 50,401.
        json_members: Names with a value in one JSON document.
        elements: Elements of one tensor.
        repeated_elements: Elements of a tensor that says one value for many: a few bytes may ask
            for a gigabyte.
        dimensions: Dimensions of one tensor.
        name_bytes: Bytes of a model's name or label in a request.
        images: Images of one request.
        image_bytes: Bytes of one encoded image.
        image_pixels: Pixels of one image, by its header, before anything is decoded.
        frames: Frames of one image: animations are refused.
        stream_in_flight: Messages of one gRPC stream that are answered at the same time.
        streams: Calls open at the same time on one gRPC connection.
        connections: Connections open at the same time, over HTTP and as many over gRPC.
        active_requests: Requests being answered at the same time, of all protocols.
        run_s: Seconds of one run of an engine in a process of its own, whatever deadline it has.
    """

    request_bytes: int = 64 << 20
    inflated_bytes: int = 100 << 20
    json_depth: int = 64
    json_lists: int = 1 << 22
    json_members: int = 1 << 19
    elements: int = 1 << 26
    repeated_elements: int = 1 << 24
    dimensions: int = 32
    name_bytes: int = 256
    images: int = 256
    image_bytes: int = 16 << 20
    image_pixels: int = 16_000_000
    frames: int = 1
    stream_in_flight: int = 16
    streams: int = 1024
    connections: int = 4096
    active_requests: int = 8192
    run_s: int = 300

    def change(self, **values: int) -> None:
        """Sets some of them; called once, before the server opens.

        Raises:
            ValueError: a limit below 1.
        """
        for name, value in values.items():
            if value < 1:
                raise ValueError(f"The limit {name} is {value}; it must be 1 or more.")
            setattr(self, name, value)


LIMITS = Limits()
# For tensors between parts of this server: what came in was held against LIMITS already.
NO_LIMITS = Limits(elements=sys.maxsize, repeated_elements=sys.maxsize, dimensions=sys.maxsize)
NAMES = tuple(each.name for each in fields(Limits))
