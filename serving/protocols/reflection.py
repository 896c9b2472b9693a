"""gRPC's server reflection: what grpcurl, Postman and others ask before they can call anything.

v1 and v1alpha have the same messages; some clients know only one of them.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from serving.protocols.status import GrpcMethod
from serving.transport import GrpcRequest
from serving.wire.codes import CODE_NUMBERS
from serving.wire.pool import message, parse_message, pool

REFLECTION_SERVICE = "grpc.reflection.v1.ServerReflection"
METHODS = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
)


class Reflection:
    """Answers with the descriptions in the server's own pool.

    Args:
        services: The full names of the services that are there.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = sorted(services)

    def methods(self) -> Mapping[str, GrpcMethod]:
        """The streams by their full path; each request has one answer."""
        return dict.fromkeys(METHODS, self._answer)

    async def _answer(self, request: GrpcRequest) -> bytes:
        asked = parse_message("grpc.reflection.v1.ServerReflectionRequest", request.body)
        answer = message("grpc.reflection.v1.ServerReflectionResponse")()
        answer.valid_host = asked.host
        answer.original_request.CopyFrom(asked)
        try:
            self._fill(answer, asked)
        except KeyError as error:
            answer.error_response.error_code = CODE_NUMBERS["NOT_FOUND"]
            answer.error_response.error_message = str(error.args[0])
        body: bytes = answer.SerializeToString()
        return body

    def _fill(self, answer: Any, asked: Any) -> None:
        kind = asked.WhichOneof("message_request")
        match kind:
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add().name = name
            case "file_by_filename":
                _describe(answer, pool().FindFileByName(asked.file_by_filename))
            case "file_containing_symbol":
                _describe(answer, pool().FindFileContainingSymbol(asked.file_containing_symbol))
            case "all_extension_numbers_of_type":
                # No message of ours can be extended; a name that is none is not found.
                name = asked.all_extension_numbers_of_type
                pool().FindMessageTypeByName(name)
                answer.all_extension_numbers_response.base_type_name = name
            case "file_containing_extension":
                number = asked.file_containing_extension.extension_number
                name = asked.file_containing_extension.containing_type
                raise KeyError(f"{name} has no extension {number}.")
            case _:
                answer.error_response.error_code = CODE_NUMBERS["INVALID_ARGUMENT"]
                answer.error_response.error_message = "The request asks for nothing."


def _describe(answer: Any, file: FileDescriptor) -> None:
    """A file and, after it, all that it imports."""
    found: dict[str, FileDescriptor] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop(0)
        if each.name not in found:
            found[each.name] = each
            waiting.extend(each.dependencies)
    for each in found.values():
        proto = FileDescriptorProto()
        each.CopyToProto(proto)
        answer.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
