"""The endpoints that tell: health, metadata, configuration, statistics, the repository's index."""

from __future__ import annotations

from typing import Any

from chassis.rest.exchange import Exchange, Reply, json_reply
from chassis.rest.json_text import Object, flag_at
from chassis.rest.plain import plain
from protos.inference import grpc_service_pb2 as oip

# The protocol asks for a 4xx where the answer is no.
NOT_READY = 400


async def server_live(exchange: Exchange) -> Reply:
    """ServerLive."""
    answer = await exchange.ask("ServerLive", oip.ServerLiveRequest())
    return _yes_or_no("live", answer.live)


async def server_ready(exchange: Exchange) -> Reply:
    """ServerReady."""
    answer = await exchange.ask("ServerReady", oip.ServerReadyRequest())
    return _yes_or_no("ready", answer.ready)


async def model_ready(exchange: Exchange) -> Reply:
    """ModelReady."""
    message = oip.ModelReadyRequest(name=exchange.model, version=exchange.version)
    answer = await exchange.ask("ModelReady", message)
    return _yes_or_no("ready", answer.ready, name=exchange.model)


def _yes_or_no(word: str, holds: bool, **besides: str) -> Reply:
    return json_reply({**besides, word: holds}, 200 if holds else NOT_READY)


async def server_metadata(exchange: Exchange) -> Reply:
    """ServerMetadata."""
    answer = await exchange.ask("ServerMetadata", oip.ServerMetadataRequest())
    return json_reply(plain(answer))


async def model_metadata(exchange: Exchange) -> Reply:
    """ModelMetadata."""
    message = oip.ModelMetadataRequest(name=exchange.model, version=exchange.version)
    return json_reply(plain(await exchange.ask("ModelMetadata", message)))


async def model_config(exchange: Exchange) -> Reply:
    """ModelConfig."""
    message = oip.ModelConfigRequest(name=exchange.model, version=exchange.version)
    answer = await exchange.ask("ModelConfig", message)
    return json_reply(plain(answer.config))


async def model_statistics(exchange: Exchange) -> Reply:
    """ModelStatistics, of one model or of all."""
    message = oip.ModelStatisticsRequest(name=exchange.model, version=exchange.version)
    return json_reply(plain(await exchange.ask("ModelStatistics", message)))


async def repository_index(exchange: Exchange) -> Reply:
    """RepositoryIndex, as a list."""
    given = await exchange.json()
    message = oip.RepositoryIndexRequest(ready=flag_at(given, "ready", "ready", default=False))
    answer = await exchange.ask("RepositoryIndex", message)
    return json_reply([_index_entry(entry) for entry in answer.models])


def _index_entry(entry: Any) -> Object:
    """Fields without a value are left out, as at Triton."""
    return {name: value for name, value in plain(entry).items() if value or name == "name"}
