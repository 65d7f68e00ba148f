"""Object storage: conditions, large objects, servers that refuse, stop or are not there."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import kill, urandom
from pathlib import Path
from unittest.mock import ANY
from uuid import uuid4

import pytest

from chassis import failpoints
from chassis.errors import DataLoss, FailedPrecondition, Unavailable
from model_store import Store, open_store, s3_objects, s3_store
from model_store.line_bytes import decode_line
from model_store.publication import publish
from model_store.s3_line import S3Line
from model_store.s3_location import S3Location
from model_store.s3_objects import S3Entry, S3Objects
from tests.model_store.raw import RawObjects
from tests.model_store.samples import MODEL, assert_whole, made, stored, weights
from tests.s3_server import S3Server


@pytest.fixture
def url(s3_server: S3Server) -> str:
    return s3_server.url(uuid4().hex)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as store:
        yield store


@pytest.fixture
def objects(url: str) -> S3Objects:
    return S3Objects(S3Location.of(url))


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250])
def test_objects_of_every_number_of_parts_come_back(
    objects: S3Objects, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    objects.put("x", content := urandom(size))
    monkeypatch.setattr(s3_objects, "CHUNK_BYTES", 100)
    found = objects.read("x")
    assert found is not None
    assert (found.content, objects.entry("x")) == (content, S3Entry("x", size, ANY))


def test_only_blobs_put_long_ago_are_marked_when_used(
    store: Store, objects: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        made(store, 1)
    assert list(objects.entries("uses")) == []
    monkeypatch.setattr(s3_store, "MARK_AFTER_S", -3600)
    made(store, 1)
    assert len(list(objects.entries("uses"))) == 3


def test_a_blob_of_several_upload_parts_comes_back(store: Store) -> None:
    content = urandom(2 * s3_objects.CHUNK_BYTES + 1)
    assert store.read_blob(store.put_blob(memoryview(content))) == content


def test_a_conditional_write_needs_the_tag_of_what_is_there(objects: S3Objects) -> None:
    assert objects.put_if("x", b"first", "")
    assert not objects.put_if("x", b"second", "")
    first = objects.read("x")
    assert first is not None
    assert objects.put_if("x", b"second", first.tag)
    assert not objects.put_if("x", b"third", first.tag)
    second = objects.read_if_changed("x", first.tag)
    assert second is not None
    assert second.content == b"second"
    assert objects.read_if_changed("x", second.tag) is None


def test_what_is_not_there(objects: S3Objects) -> None:
    assert objects.read("nothing") is None
    assert objects.entry("nothing") is None
    gone = objects.read_if_changed("nothing", '"tag"')
    assert gone is not None
    assert gone.tag == ""
    assert objects.absent(["nothing", "neither"]) == {"nothing", "neither"}
    assert objects.folders("nowhere") == []


def test_a_manifest_moves_out_of_the_line_when_the_next_version_is_made(
    store: Store, url: str
) -> None:
    raw = RawObjects(url)
    for step in (1, 2, 3):
        made(store, step)
    assert raw.state().newest == 3
    assert raw.objects.entry(raw.path("manifest", 2)) is not None
    assert raw.objects.entry(raw.path("manifest", 3)) is None
    assert assert_whole(store) == [1, 2, 3]


def test_an_older_manifest_that_is_damaged_or_gone_is_named(store: Store, url: str) -> None:
    raw = RawObjects(url)
    for step in (1, 2, 3):
        made(store, step)
    raw.write("manifest", 1, raw.read("manifest", 2))
    with pytest.raises(DataLoss, match="another version"):
        store.manifest(MODEL, 1)
    raw.objects.put(raw.path("manifest", 2), b"")
    with pytest.raises(DataLoss, match="version 2"):
        store.manifest(MODEL, 2)
    assert store.manifest(MODEL, 3).step == 3


def test_a_damaged_line_is_detected_and_never_written_over(store: Store, url: str) -> None:
    made(store, 1)
    raw = RawObjects(url)
    line = raw.read_object(raw.line)
    raw.objects.put(raw.line, line[:-1])
    for call in (
        lambda: store.versions(MODEL),
        lambda: store.channel(MODEL, "stable"),
        lambda: store.acquire_epoch(MODEL, "owner"),
        lambda: made(store, 2),
    ):
        with pytest.raises(DataLoss, match=f"'{MODEL}'") as raised:
            call()
        assert raised.value.reason == "LINE_DAMAGED"
    raw.objects.put(raw.line, line)
    assert made(store, 2).version == 2


def test_a_write_whose_answer_was_lost_counts_once(
    store: Store, objects: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    put_if, lost = S3Objects.put_if, []

    def take_effect_and_seem_refused(self: S3Objects, path: str, content: bytes, tag: str) -> bool:
        done = put_if(self, path, content, tag)
        if path.endswith("/line") and not lost:
            lost.append(done)
            return False
        return done

    monkeypatch.setattr(S3Objects, "put_if", take_effect_and_seem_refused)
    channel = store.move_channel(MODEL, "stable", 1, expected_revision=0, reason="once")
    assert lost == [True]
    assert (channel.revision, store.revision(MODEL)) == (1, 2)


def test_a_writer_that_comes_second_begins_again(objects: S3Objects) -> None:
    first, second = S3Line(objects, MODEL), S3Line(objects, MODEL)
    first.add_epoch(1, "first")
    second.add_epoch(1, "second")
    assert first.commit()
    assert not second.commit()
    # Its line is now what the other made, ready for the next attempt.
    assert second.epoch() == 1
    assert decode_line(_content(objects, second.path), MODEL).owner == "first"


def _content(objects: S3Objects, path: str) -> bytes:
    found = objects.read(path)
    assert found is not None
    return found.content


def test_a_store_that_went_back_is_a_change(store: Store, url: str) -> None:
    made(store, 1)
    raw = RawObjects(url)
    before = raw.read_object(raw.line)
    seen = publish(store, stored(store, 2)) and store.revision(MODEL)
    raw.objects.put(raw.line, before)
    assert store.wait_for_change(MODEL, seen, 30.0) == 1


def test_a_reader_that_waits_reads_no_record_that_did_not_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    answers = []
    read = S3Objects.read_if_changed

    def counted(self: S3Objects, path: str, tag: str) -> object:
        answers.append(read(self, path, tag))
        return answers[-1]

    monkeypatch.setattr(S3Objects, "read_if_changed", counted)
    assert store.wait_for_change(MODEL, store.revision(MODEL), 0.2) == 1
    assert answers
    assert set(answers) == {None}


def test_a_key_that_is_refused_is_an_operators_to_repair(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with open_store(s3_server.url("refused")) as store:
        for call in (store.models, lambda: store.put_blob(b"x"), lambda: store.versions(MODEL)):
            with pytest.raises(FailedPrecondition, match="'models'") as raised:
                call()
            assert raised.value.reason == "STORE_ACCESS"
            assert "wrong" not in str(raised.value)


def test_a_machine_without_credentials_is_told_what_to_set(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(FailedPrecondition, match="belong together"):
        open_store(s3_server.url("x"))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(s3_objects, "CONNECT_TIMEOUT_S", 0.2)
    with (
        open_store(s3_server.url("x")) as store,
        pytest.raises(FailedPrecondition, match="no credentials") as raised,
    ):
        store.versions(MODEL)
    assert raised.value.reason == "STORE_ACCESS"


def test_a_bucket_that_does_not_exist_is_named(s3_server: S3Server) -> None:
    with (
        open_store(s3_server.url("x", bucket="no-such-bucket")) as store,
        pytest.raises(FailedPrecondition, match="'no-such-bucket'") as raised,
    ):
        store.versions(MODEL)
    assert raised.value.reason == "STORE_ACCESS"


def test_a_server_that_is_not_there_is_unavailable(s3_server: S3Server) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (
        open_store(s3_server.url("x").replace(s3_server.endpoint, nowhere)) as store,
        pytest.raises(Unavailable) as raised,
    ):
        store.versions(MODEL)
    assert raised.value.reason == "STORE_UNAVAILABLE"
    assert "127.0.0.1" not in str(raised.value)


def test_a_server_that_hangs_is_unavailable_until_it_goes_on(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After s3_server, which brings the credentials; this server may be mistreated.
    monkeypatch.setattr(s3_objects, "REQUEST_TIMEOUT_S", 0.3)
    with S3Server(tmp_path / "server") as server, open_store(server.url("x")) as store:
        made(store, 1)
        kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable) as raised:
                store.versions(MODEL)
            assert raised.value.reason == "STORE_UNAVAILABLE"
        finally:
            kill(server.pid, signal.SIGCONT)
        monkeypatch.setattr(s3_objects, "REQUEST_TIMEOUT_S", 30)
        with open_store(server.url("x")) as patient:
            assert made(patient, 2).version == 2


def test_a_server_killed_and_started_again_has_every_version(
    tmp_path: Path, s3_server: S3Server
) -> None:
    with S3Server(tmp_path / "server") as server, open_store(server.url("x")) as store:
        for step in (1, 2):
            publish(store, stored(store, step))
        server.stop()
        with pytest.raises(Unavailable):
            made(store, 3)
        server.start()
        assert assert_whole(store) == [1, 2]
        assert publish(store, stored(store, 3)).channel.version == 3


class _Unconditional(BaseHTTPRequestHandler):
    """An S3 server of the kind that takes every write."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        return


def test_a_server_that_ignores_conditions_gets_no_record(s3_server: S3Server) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Unconditional) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        with (
            open_store(s3_server.url("x").replace(s3_server.endpoint, endpoint)) as store,
            pytest.raises(FailedPrecondition, match="If-None-Match") as raised,
        ):
            store.acquire_epoch(MODEL, "owner")
        server.shutdown()
    assert raised.value.reason == "STORE_UNCONDITIONAL"


def test_stores_of_two_prefixes_do_not_meet(s3_server: S3Server) -> None:
    with open_store(s3_server.url("one")) as one, open_store(s3_server.url("one/inner")) as other:
        name = one.put_blob(weights(7))
        made(one, 1, model="two-prefixes")
        assert other.missing_blobs([name]) == {name}
        assert other.models() == []
