"""Which store a URL means, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chassis.errors import FailedPrecondition, InvalidArgument
from model_store import open_store
from model_store.file_store import FileStore
from model_store.memory_store import MemoryStore
from model_store.s3_location import S3Location
from tests.model_store.samples import MODEL, made

ROOT = Path(__file__).parents[2]


def test_memory_stores_of_one_name_are_one_store() -> None:
    one, other = open_store("memory://test-open"), open_store("memory://test-open-2")
    assert isinstance(one, MemoryStore)
    made(one, 1)
    one.close()
    assert open_store("memory://test-open").versions(MODEL) == [1]
    assert other.versions(MODEL) == []


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    root = tmp_path / "with space"
    with open_store(root.as_uri()) as store:
        assert isinstance(store, FileStore)
        made(store, 1)
    assert (root / "models" / MODEL).is_dir()
    assert open_store(f"file://localhost{root}").versions(MODEL) == [1]


@pytest.mark.parametrize("url", ["", "gs://bucket", "/var/store", "redis:host", "://", "file:/x"])
def test_another_scheme_is_told_which_there_are(url: str) -> None:
    with pytest.raises(
        InvalidArgument,
        match=r"memory://, file://, redis://, rediss://, redis\+sentinel://, s3://",
    ) as raised:
        open_store(url)
    assert raised.value.reason == "BAD_STORE_URL"


def test_a_scheme_misspelt_keeps_its_password_to_itself() -> None:
    with pytest.raises(InvalidArgument) as raised:
        open_store("reddis://user:secret@host:6379/0")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["file://relative/path", "file://", "file://host/x"])
def test_a_file_url_needs_an_absolute_path(url: str) -> None:
    with pytest.raises(InvalidArgument, match="file:///path"):
        open_store(url)


@pytest.mark.parametrize("url", ["memory://", "memory://a/b"])
def test_a_memory_store_needs_a_name(url: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        open_store(url)
    assert raised.value.reason == "BAD_NAME"


@pytest.mark.parametrize("url", ["redis://u:secret@h:port/0", "redis://u:secret@[h/0"])
def test_a_redis_url_that_cannot_be_read_keeps_its_password_to_itself(url: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        open_store(url)
    assert raised.value.reason == "BAD_STORE_URL"
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_only_a_redis_url_loads_the_redis_client() -> None:
    code = (
        "import sys; from model_store import open_store, publication, faults;"
        "open_store('memory://x'); open_store('file:///nowhere');"
        "assert not {'redis', 'obstore', 'torch'} & set(sys.modules);"
        "open_store('redis://127.0.0.1:1/0'); assert 'redis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_an_s3_url_names_bucket_and_prefix() -> None:
    url = "s3://bucket/some/prefix/?endpoint=http://127.0.0.1:9000/&region=eu-west-1&poll_s=2"
    assert S3Location.of(url) == S3Location(
        "bucket", "some/prefix", "http://127.0.0.1:9000", "eu-west-1", 2.0
    )
    assert S3Location.of("s3://bucket") == S3Location("bucket")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://", "name of a bucket"),
        ("s3:///prefix", "name of a bucket"),
        ("s3://bucket:9000/x", "name of a bucket"),
        ("s3://bucket/x#y", "name of a bucket"),
        ("s3://key:secret@bucket/x", "must not hold credentials"),
        ("s3://bucket/x?endpoint=http://key:secret@host", "must not hold credentials"),
        ("s3://bucket/x?endpoint=host:9000", "must start with http"),
        ("s3://bucket/x?endpont=http://host", "did you mean endpoint"),
        ("s3://bucket/x?poll_s=never", "expected 0.01 to 3600"),
        ("s3://bucket/x?poll_s=nan", "expected 0.01 to 3600"),
        ("s3://bucket/x?region", "not key=value"),
    ],
)
def test_an_s3_url_that_cannot_be_used_says_why(url: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told) as raised:
        open_store(url)
    assert raised.value.reason == "BAD_STORE_URL"
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_missing_s3_client_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_store.s3_store", None)
    with pytest.raises(FailedPrecondition, match=r"headrace\[s3\]") as raised:
        open_store("s3://bucket")
    assert raised.value.reason == "NO_S3_CLIENT"
