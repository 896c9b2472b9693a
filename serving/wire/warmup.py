"""Warm-up files: `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLogs.

A record is its length (8 bytes, little-endian), the length's masked CRC32C, the data, and the data's.
"""

import struct
from collections.abc import Iterator

from serving.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from serving.messages import PredictCall
from serving.wire import examples, tfs_proto

# TensorFlow Serving refuses a file with more.
MOST_RECORDS = 1000
_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")


def decode_warmup(file: bytes) -> tuple[PredictCall, ...]:
    """The requests of a warm-up file.

    The checksums of the lengths are checked; those of the data are left to the messages, which
    must be whole to be read.

    Raises:
        InvalidRequestError: a record that is cut short, damaged or no PredictionLog.
        LimitExceededError: more than 1,000 records.
        UnsupportedError: a kind of request that cannot be replayed.
    """
    calls: list[PredictCall] = []
    for index, record in enumerate(_records(file)):
        if index >= MOST_RECORDS:
            raise LimitExceededError(
                f"The file has more than {MOST_RECORDS} records; TensorFlow Serving takes no more."
            )
        try:
            calls.extend(_calls(record))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"Record {index}: {error}") from error
    return tuple(calls)


def _calls(record: bytes) -> Iterator[PredictCall]:
    log = tfs_proto.parse("PredictionLog", record)
    match log.WhichOneof("log_type"):
        case "predict_log":
            yield tfs_proto.decode_predict_request(log.predict_log.request.SerializeToString())
        case "classify_log":
            body = log.classify_log.request.SerializeToString()
            yield examples.decode_request("ClassificationRequest", body)
        case "regress_log":
            body = log.regress_log.request.SerializeToString()
            yield examples.decode_request("RegressionRequest", body)
        case "multi_inference_log":
            body = log.multi_inference_log.request.SerializeToString()
            for call, _ in examples.decode_multi_request(body):
                yield call
        case _:
            raise UnsupportedError(
                "Only logs of Predict, Classify, Regress and MultiInference can be replayed."
            )


def _records(file: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(file):
        if len(file) - place < _HEAD.size:
            raise InvalidRequestError(f"The file ends within a record's head, at byte {place}.")
        length, checksum = _HEAD.unpack_from(file, place)
        if checksum != _masked_crc(file[place : place + 8]):
            raise InvalidRequestError(f"The record at byte {place} is damaged.")
        place += _HEAD.size
        if length + _TAIL.size > len(file) - place:
            raise InvalidRequestError(f"The file ends within the record at byte {place}.")
        yield file[place : place + length]
        place += length + _TAIL.size


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901 - a shift register
        table.append(byte)
    return tuple(table)


_CRC32C = _table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
