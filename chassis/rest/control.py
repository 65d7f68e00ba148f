"""The endpoints that change a server: models, trace and log settings, shared memory.

Whether the caller may is the servicer's to say (`Call.require_control`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from chassis.errors import InvalidArgument
from chassis.rest.exchange import Exchange, Reply, json_reply
from chassis.rest.json_text import Object, count_at, object_at, text_at
from chassis.rest.plain import plain
from protos.inference import grpc_service_pb2 as oip

FILE_PREFIX = "file:"


async def load_model(exchange: Exchange) -> Reply:
    """RepositoryModelLoad; files travel in base64."""
    message = oip.RepositoryModelLoadRequest(model_name=exchange.model)
    _put_repository_parameters(message.parameters, await exchange.json())
    await exchange.ask("RepositoryModelLoad", message)
    return json_reply({})


async def unload_model(exchange: Exchange) -> Reply:
    """RepositoryModelUnload."""
    message = oip.RepositoryModelUnloadRequest(model_name=exchange.model)
    _put_repository_parameters(message.parameters, await exchange.json())
    await exchange.ask("RepositoryModelUnload", message)
    return json_reply({})


def _put_repository_parameters(target: Any, given: Object) -> None:
    for name, value in object_at(given, "parameters", "parameters").items():
        kind = type(value)
        if name.startswith(FILE_PREFIX) and kind is str:
            target[name].bytes_param = _decoded(value, f"parameters[{name[:64]}]")
        elif kind is bool:
            target[name].bool_param = value
        elif kind is str:
            target[name].string_param = value
        elif kind is int and -(2**63) <= value < 2**63:
            target[name].int64_param = value
        else:
            raise _bad(f"parameters[{name[:64]}]", "a string, an integer or a flag")


def _decoded(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(path, "base64") from None


async def get_trace_settings(exchange: Exchange) -> Reply:
    """TraceSetting without changes."""
    return await _trace_settings(exchange, oip.TraceSettingRequest(model_name=exchange.model))


async def set_trace_settings(exchange: Exchange) -> Reply:
    """TraceSetting; null clears a setting."""
    message = oip.TraceSettingRequest(model_name=exchange.model)
    for name, value in (await exchange.json()).items():
        values = value if type(value) is list else [] if value is None else [value]
        if any(type(item) is not str for item in values):
            raise _bad(name[:64], "a string, a list of strings or null")
        message.settings[name].value.extend(values)
    return await _trace_settings(exchange, message)


async def _trace_settings(exchange: Exchange, message: oip.TraceSettingRequest) -> Reply:
    answer = await exchange.ask("TraceSetting", message)
    told: Object = {}
    for name, setting in sorted(answer.settings.items()):
        values = list(setting.value)
        told[name] = values if name == "trace_level" or len(values) != 1 else values[0]
    return json_reply(told)


async def get_log_settings(exchange: Exchange) -> Reply:
    """LogSettings without changes."""
    return await _log_settings(exchange, oip.LogSettingsRequest())


async def set_log_settings(exchange: Exchange) -> Reply:
    """LogSettings."""
    message = oip.LogSettingsRequest()
    for name, value in (await exchange.json()).items():
        kind = type(value)
        if kind is bool:
            message.settings[name].bool_param = value
        elif kind is str:
            message.settings[name].string_param = value
        elif kind is int and 0 <= value < 2**32:
            message.settings[name].uint32_param = value
        else:
            raise _bad(name[:64], "a flag, a string or an integer of 32 bits")
    return await _log_settings(exchange, message)


async def _log_settings(exchange: Exchange, message: oip.LogSettingsRequest) -> Reply:
    answer = await exchange.ask("LogSettings", message)
    told: Object = {}
    for name, setting in sorted(answer.settings.items()):
        choice = setting.WhichOneof("parameter_choice")
        told[name] = getattr(setting, choice) if choice else None
    return json_reply(told)


def _region(exchange: Exchange) -> str:
    return exchange.path.get("region", "")


async def system_memory_status(exchange: Exchange) -> Reply:
    """SystemSharedMemoryStatus, as a list."""
    message = oip.SystemSharedMemoryStatusRequest(name=_region(exchange))
    answer = await exchange.ask("SystemSharedMemoryStatus", message)
    return json_reply([plain(region) for _, region in sorted(answer.regions.items())])


async def register_system_memory(exchange: Exchange) -> Reply:
    """SystemSharedMemoryRegister."""
    given = await exchange.json()
    message = oip.SystemSharedMemoryRegisterRequest(
        name=_region(exchange),
        key=text_at(given, "key", "key"),
        offset=count_at(given, "offset", "offset", 0),
        byte_size=count_at(given, "byte_size", "byte_size"),
    )
    await exchange.ask("SystemSharedMemoryRegister", message)
    return json_reply({})


async def unregister_system_memory(exchange: Exchange) -> Reply:
    """SystemSharedMemoryUnregister, of one region or of all."""
    message = oip.SystemSharedMemoryUnregisterRequest(name=_region(exchange))
    await exchange.ask("SystemSharedMemoryUnregister", message)
    return json_reply({})


async def cuda_memory_status(exchange: Exchange) -> Reply:
    """CudaSharedMemoryStatus, as a list."""
    message = oip.CudaSharedMemoryStatusRequest(name=_region(exchange))
    answer = await exchange.ask("CudaSharedMemoryStatus", message)
    return json_reply([plain(region) for _, region in sorted(answer.regions.items())])


async def register_cuda_memory(exchange: Exchange) -> Reply:
    """CudaSharedMemoryRegister; the handle travels in base64."""
    given = await exchange.json()
    handle = text_at(object_at(given, "raw_handle", "raw_handle"), "b64", "raw_handle.b64")
    message = oip.CudaSharedMemoryRegisterRequest(
        name=_region(exchange),
        raw_handle=_decoded(handle, "raw_handle.b64"),
        device_id=count_at(given, "device_id", "device_id", 0),
        byte_size=count_at(given, "byte_size", "byte_size"),
    )
    await exchange.ask("CudaSharedMemoryRegister", message)
    return json_reply({})


async def unregister_cuda_memory(exchange: Exchange) -> Reply:
    """CudaSharedMemoryUnregister, of one region or of all."""
    message = oip.CudaSharedMemoryUnregisterRequest(name=_region(exchange))
    await exchange.ask("CudaSharedMemoryUnregister", message)
    return json_reply({})


def _bad(path: str, expected: str) -> InvalidArgument:
    return InvalidArgument("BAD_PARAMETER", f"{path} is wrong; expected {expected}", field=path)
