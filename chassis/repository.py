"""RepositoryModelLoad and -Unload as read from the wire: what may be asked of a model and how.

A load names a model and perhaps, in Triton's `config` override, which version of it is to serve.
Everything else of a model comes from the model store and is refused here with a reason. Whether
the model and its version exist is for those who serve it to find out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chassis.errors import HeadraceError, InvalidArgument, Unimplemented
from chassis.names import checked_name
from protos.inference import grpc_service_pb2 as oip

# A config override says little; what is longer was not meant for us, and is not worth the parsing.
MOST_CONFIG_CHARS = 65_536
EXPECTED = (
    '{"version_policy": {"specific": {"versions": [N]}}} to pin a version, '
    '{"version_policy": {"latest": {}}} to follow the channel, '
    '{"parameters": {"channel": {"string_value": NAME}}} to name the channel'
)
_FIELD = "parameters[config]"


@dataclass(frozen=True, slots=True)
class Load:
    """`version` 0 follows the channel; an empty `channel` is the one that the replica is set to."""

    model: str
    version: int = 0
    channel: str = ""


def load_of(request: oip.RepositoryModelLoadRequest) -> Load:
    """What a RepositoryModelLoad asks for.

    Raises InvalidArgument (BAD_NAME, BAD_PARAMETER, BAD_CONFIG) and Unimplemented
    (REPOSITORY_NOT_SERVED).
    """
    check_repository(request.repository_name)
    model = _model_name(request.model_name)
    for name in sorted(request.parameters):
        if name.startswith("file:"):
            raise InvalidArgument(
                "FILES_REFUSED",
                f"parameter {name[:64]!r}: files are not taken; weights come from the model store, "
                "where a publisher puts them",
                field=f"parameters[{name[:64]}]",
            )
        if name != "config":
            raise _unknown_parameter(name, "config")
    if "config" not in request.parameters:
        return Load(model)
    given = request.parameters["config"]
    if given.WhichOneof("parameter_choice") != "string_param":
        raise _bad_config("parameter 'config' must be a string of JSON")
    return _overridden(model, given.string_param)


def unload_of(request: oip.RepositoryModelUnloadRequest) -> str:
    """The model that a RepositoryModelUnload names; no model here depends on another.

    Raises InvalidArgument (BAD_NAME, BAD_PARAMETER) and Unimplemented (REPOSITORY_NOT_SERVED).
    """
    check_repository(request.repository_name)
    for name in sorted(request.parameters):
        if name != "unload_dependents":
            raise _unknown_parameter(name, "unload_dependents")
        if request.parameters[name].WhichOneof("parameter_choice") != "bool_param":
            raise InvalidArgument(
                "BAD_PARAMETER",
                f"parameter {name!r} must be true or false",
                field=f"parameters[{name}]",
            )
    return _model_name(request.model_name)


def check_repository(name: str) -> None:
    """There is one repository, without a name. Raises Unimplemented (REPOSITORY_NOT_SERVED)."""
    if name:
        raise Unimplemented(
            "REPOSITORY_NOT_SERVED",
            f"repository {name[:64]!r} is unknown: models come from one model store; leave "
            "repository_name empty",
            field="repository_name",
        )


def _model_name(name: str) -> str:
    try:
        return checked_name(name, what="model")
    except InvalidArgument as error:
        raise InvalidArgument(error.reason, error.message, field="model_name") from None


def _overridden(model: str, text: str) -> Load:
    config = _parsed(text)
    _check_keys(config, ("version_policy", "parameters"), "")
    version = _version(config["version_policy"]) if "version_policy" in config else 0
    channel = _channel(config["parameters"]) if "parameters" in config else ""
    return Load(model, version, channel)


def _parsed(text: str) -> Mapping[str, Any]:
    if len(text) > MOST_CONFIG_CHARS:
        raise _bad_config(
            f"the config override has {len(text)} characters; at most {MOST_CONFIG_CHARS} are read"
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad_config("the config override is not JSON") from None
    return _mapping(config, "the config override")


def _version(policy: object) -> int:
    policy = _mapping(policy, "version_policy")
    _check_keys(policy, ("specific", "latest"), "version_policy.")
    if len(policy) != 1:
        raise _bad_config("version_policy must be either 'specific' or 'latest'")
    if "specific" in policy:
        return _pinned(_mapping(policy["specific"], "version_policy.specific"))
    latest = _mapping(policy["latest"], "version_policy.latest")
    _check_keys(latest, ("num_versions",), "version_policy.latest.")
    if str(latest.get("num_versions", 1)) != "1":
        raise _bad_config(
            "version_policy.latest.num_versions must be 1: a model is served in one version at a "
            "time"
        )
    return 0


def _pinned(specific: Mapping[str, Any]) -> int:
    _check_keys(specific, ("versions",), "version_policy.specific.")
    versions = specific.get("versions")
    if not isinstance(versions, list) or len(versions) != 1:
        count = len(versions) if isinstance(versions, list) else 0
        raise _bad_config(
            "version_policy.specific.versions must name exactly one version, because a model is "
            f"served in one at a time; it names {count}"
        )
    # Protobuf's own JSON writes 64-bit integers as strings.
    given = str(versions[0]) if type(versions[0]) in (int, str) else ""
    if not (given.isascii() and given.isdigit() and 0 < len(given) <= 18 and int(given)):
        raise _bad_config(
            "version_policy.specific.versions must name a version as a positive integer"
        )
    return int(given)


def _channel(parameters: object) -> str:
    parameters = _mapping(parameters, "parameters")
    _check_keys(parameters, ("channel",), "parameters.")
    if not parameters:
        return ""
    value = _mapping(parameters["channel"], "parameters.channel")
    _check_keys(value, ("string_value",), "parameters.channel.")
    name = value.get("string_value")
    if not isinstance(name, str):
        raise _bad_config("parameters.channel.string_value must be the name of a channel")
    try:
        return checked_name(name, what="channel")
    except InvalidArgument as error:
        raise _bad_config(error.message) from None


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad_config(f"{what} must be a JSON object")
    return value


def _check_keys(given: Iterable[str], known: Iterable[str], prefix: str) -> None:
    for key in given:
        if key in known:
            continue
        if prefix + key == "max_batch_size":
            raise _bad_config(
                "'max_batch_size' cannot be overridden: it belongs to the published version; the "
                "setting gateway.max_batch_size lowers it for all models"
            )
        raise _bad_config(f"{prefix + key[:64]!r} cannot be overridden; what can: {EXPECTED}")


def _bad_config(message: str) -> HeadraceError:
    return InvalidArgument("BAD_CONFIG", message, field=_FIELD)


def _unknown_parameter(name: str, expected: str) -> HeadraceError:
    return InvalidArgument(
        "BAD_PARAMETER",
        f"parameter {name[:64]!r} is unknown; expected {expected!r} or nothing",
        field=f"parameters[{name[:64]}]",
    )
