"""Blobs of a machine: one download for all its readers, whole bytes only, bounded."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chassis.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from model_store import host_cache, open_store
from model_store.blobs import at_once, place
from model_store.digests import digest, hex_part
from model_store.host_cache import HostCache

CONTENT = b"weights" * 1000
NAME = digest(CONTENT)


class Source:
    """Knows what it was given; counts how often each is read, and waits where a gate is shut."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {digest(content): content for content in contents}
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def read_blob(self, digest: str) -> bytes:
        self.reads.append(digest)
        self.asked.set()
        assert self.gate.wait(30)
        if digest not in self.contents:
            raise NotFound("BLOB_NOT_FOUND", "not there")
        return self.contents[digest]

    def read_blob_into(self, digest, target, before=at_once):
        before(len(target))
        place(self.read_blob(digest), target, digest)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def cache(directory: Path, source: Source, max_bytes: int = 10**9) -> HostCache:
    return HostCache(directory, source, max_bytes=max_bytes)


def file_of(directory: Path, name: str) -> Path:
    digits = hex_part(name)
    return directory / "blobs" / digits[:2] / digits[2:]


def test_blobs_are_read_into_memory_at_hand(directory):
    first, second = Source(CONTENT), Source()
    for source in (first, second):
        target, told = bytearray(len(CONTENT)), []
        cache(directory, source).read_blob_into(NAME, memoryview(target), told.append)
        assert target == CONTENT
        assert sum(told) >= len(CONTENT)
    assert (first.reads, second.reads) == ([NAME], [])


def test_the_source_is_asked_when_the_pace_allows_it(directory):
    source, reads_before = Source(CONTENT), []

    def before(size):
        assert size == len(CONTENT)
        reads_before.append(len(source.reads))

    cache(directory, source).read_blob_into(NAME, memoryview(bytearray(len(CONTENT))), before)
    assert reads_before == [0]
    assert source.reads == [NAME]


@pytest.mark.parametrize("error", [FailedPrecondition("STALL_TOO_LONG", "it"), OSError("it")])
def test_who_gives_up_gets_nothing_from_the_source_either(directory, error):
    source = Source(CONTENT)
    cache(directory, source).read_blob(NAME)

    def give_up(_size):
        raise error

    with pytest.raises(type(error), match="it"):
        cache(directory, source).read_blob_into(NAME, memoryview(bytearray(len(CONTENT))), give_up)
    assert source.reads == [NAME]


def test_the_second_reader_of_a_machine_asks_nobody(directory):
    first, second = Source(CONTENT), Source()
    assert cache(directory, first).read_blob(NAME) == CONTENT
    assert cache(directory, second).read_blob(NAME) == CONTENT
    assert (first.reads, second.reads) == ([NAME], [])


def test_readers_at_once_wait_for_one_download(directory):
    source = Source(CONTENT)
    source.gate.clear()
    with ThreadPoolExecutor(6) as threads:
        reading = [threads.submit(cache(directory, source).read_blob, NAME) for _ in range(6)]
        assert source.asked.wait(30)
        source.gate.set()
        assert [read.result(30) for read in reading] == [CONTENT] * 6
    assert source.reads == [NAME]


def test_a_reader_that_waits_too_long_downloads_itself(directory, monkeypatch):
    monkeypatch.setattr(host_cache, "WAIT_S", 0.05)
    stuck, quick = Source(CONTENT), Source(CONTENT)
    stuck.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cache(directory, stuck).read_blob, NAME)
        assert stuck.asked.wait(30)
        assert cache(directory, quick).read_blob(NAME) == CONTENT
        stuck.gate.set()
        assert waiting.result(30) == CONTENT


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], b"x" + CONTENT[1:]])
def test_a_damaged_blob_is_dropped_and_fetched_anew(directory, damaged):
    source = Source(CONTENT)
    cache(directory, source).read_blob(NAME)
    file_of(directory, NAME).write_bytes(damaged)
    assert cache(directory, source).read_blob(NAME) == CONTENT
    assert source.reads == [NAME, NAME]
    assert file_of(directory, NAME).read_bytes() == CONTENT


def test_an_error_of_the_source_is_the_readers_and_keeps_nothing(directory):
    source = Source()
    for _ in range(2):
        with pytest.raises(NotFound):
            cache(directory, source).read_blob(NAME)
    assert len(source.reads) == 2
    assert not file_of(directory, NAME).exists()


def test_what_was_not_read_for_longest_goes(directory):
    contents = [bytes([number]) * 100 for number in range(4)]
    names = [digest(content) for content in contents]
    source = Source(*contents)
    small = cache(directory, source, max_bytes=300)
    for at, name in enumerate(names[:3]):
        small.read_blob(name)
        os.utime(file_of(directory, name), ns=(at, at))
    # Read again: now the second is the oldest.
    small.read_blob(names[0])
    small.read_blob(names[3])
    kept = [file_of(directory, name).exists() for name in names]
    assert kept == [True, False, True, True]


def test_a_blob_larger_than_the_cache_passes_through(directory):
    source = Source(CONTENT)
    small = cache(directory, source, max_bytes=100)
    assert small.read_blob(NAME) == CONTENT
    assert small.read_blob(NAME) == CONTENT
    assert source.reads == [NAME, NAME]


def test_a_directory_that_cannot_be_used_costs_the_cache_not_the_blob(tmp_path):
    (tmp_path / "file").write_text("in the way")
    source = Source(CONTENT)
    blocked = cache(tmp_path / "file" / "cache", source)
    assert [blocked.read_blob(NAME) for _ in range(2)] == [CONTENT, CONTENT]
    assert source.reads == [NAME, NAME]


def test_only_its_user_may_look_into_it(directory):
    cache(directory, Source(CONTENT)).read_blob(NAME)
    folders = [directory / "blobs", directory / "fetching", file_of(directory, NAME).parent]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert file_of(directory, NAME).stat().st_mode & 0o077 == 0


def read_and_die(directory: Path) -> None:
    class Deadly:
        def read_blob(self, digest: str) -> bytes:
            os.kill(os.getpid(), 9)
            raise AssertionError

    HostCache(directory, Deadly(), max_bytes=10**9).read_blob(NAME)


def test_a_reader_killed_while_it_downloads_holds_nobody_up(directory):
    child = multiprocessing.get_context("fork").Process(target=read_and_die, args=(directory,))
    child.start()
    child.join(30)
    assert child.exitcode == -9
    source = Source(CONTENT)
    assert cache(directory, source).read_blob(NAME) == CONTENT
    assert source.reads == [NAME]


def test_a_store_is_a_source(directory, tmp_path):
    with open_store((tmp_path / "store").as_uri()) as store:
        name = store.put_blob(CONTENT)
        assert cache(directory, store).read_blob(name) == CONTENT
        (tmp_path / "store" / "blobs" / hex_part(name)[:2] / hex_part(name)[2:]).write_bytes(b"x")
        assert cache(directory, store).read_blob(name) == CONTENT
        with pytest.raises(DataLoss):
            HostCache(tmp_path / "other", store, max_bytes=10**9).read_blob(name)


def test_a_source_that_is_away_is_asked_again_by_the_next_reader(directory):
    class Away:
        def read_blob(self, digest: str) -> bytes:
            raise Unavailable("STORE_UNAVAILABLE", "away")

    with pytest.raises(Unavailable):
        HostCache(directory, Away(), max_bytes=10**9).read_blob(NAME)
    assert cache(directory, Source(CONTENT)).read_blob(NAME) == CONTENT
