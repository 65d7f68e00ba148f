"""Settings of every server that takes inference requests: what one may hold, and shared memory."""

from __future__ import annotations

from pydantic import Field

from chassis.limits import Limits
from chassis.settings import Settings
from chassis.shared_memory import SharedMemory

# What a message holds beside its tensors; theirs may take the rest.
ENVELOPE_BYTES = 64 * 1024


class ContentSettings(Settings):
    """Part of the section of a server."""

    # Inputs of one request. Models with more are rare; each costs a few microseconds.
    max_request_tensors: int = Field(256, ge=1)
    # Outputs that one request names.
    max_request_outputs: int = Field(256, ge=1)
    # Dimensions of one tensor; numpy's own bound is 64.
    max_tensor_dims: int = Field(32, ge=1, le=64)
    # Elements of one tensor. A message of 256 MiB cannot hold more.
    max_tensor_elements: int = Field(2**28, ge=1)
    # Elements of one BYTES tensor; they are looked at one by one, a tenth of a second for these.
    max_bytes_elements: int = Field(2**20, ge=1)
    # Characters of the name of a tensor or of a parameter.
    max_name_chars: int = Field(256, ge=1)
    # Parameters of one request, and of each of its tensors.
    max_request_parameters: int = Field(64, ge=1)
    # Characters of a parameter's text, and of a request's id.
    max_parameter_chars: int = Field(4096, ge=1)

    # Whether clients on this machine may register POSIX shared memory and name it in requests.
    # They can then make this process read and write their files: off until someone wants it.
    shared_memory: bool = False
    # What keys of shared memory must start with, so that no other program's can be named.
    shared_memory_prefix: str = Field("headrace_", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    # Regions registered at once; each holds a file descriptor.
    max_shared_memory_regions: int = Field(64, ge=1)
    # Bytes registered at once. They are the clients' memory, but read and copied here.
    max_shared_memory_bytes: int = Field(1024**3, ge=1)

    def limits(self, message_bytes: int) -> Limits:
        """The limits of a server whose messages hold at most `message_bytes`."""
        return Limits(
            tensors=self.max_request_tensors,
            outputs=self.max_request_outputs,
            dims=self.max_tensor_dims,
            elements=self.max_tensor_elements,
            bytes_elements=self.max_bytes_elements,
            tensor_bytes=max(message_bytes - ENVELOPE_BYTES, message_bytes // 2),
            name_chars=self.max_name_chars,
            parameters=self.max_request_parameters,
            parameter_chars=self.max_parameter_chars,
        )

    def open_shared_memory(self) -> SharedMemory:
        """A registry without regions, off unless the settings switch it on."""
        return SharedMemory(
            enabled=self.shared_memory,
            prefix=self.shared_memory_prefix,
            max_regions=self.max_shared_memory_regions,
            max_bytes=self.max_shared_memory_bytes,
        )
