"""The auth file: what it may say, what it must not, and that no sentence holds a token."""

import json

import pytest

from chassis.errors import InvalidArgument
from chassis.identities import (
    digest_text,
    new_token,
    parsed_identities,
    read_identities,
)
from chassis.policy.quota import Quota

TOKEN = "correct-horse-battery"


def parsed(*entries):
    return parsed_identities(json.dumps({"identities": entries}).encode())


def test_an_identity_is_found_by_token_digest_and_certificate():
    known = parsed(
        {"name": "shop", "token_digests": [digest_text(TOKEN)], "models": ["clicks"]},
        {"name": "ops", "tokens": [TOKEN + "2"], "roles": ["infer", "control"]},
        {
            "name": "edge",
            "certificates": ["spiffe://x/edge", "edge.x"],
            "quota": {"max_concurrent": 3},
        },
    )
    shop, ops = known.of_token(TOKEN), known.of_token(TOKEN + "2")
    assert (shop.name, ops.name) == ("shop", "ops")
    assert shop.may_use("clicks") and not shop.may_use("other")
    assert ops.may_use("other") and ops.roles == {"infer", "control"}
    assert known.of_certificate(["nobody", "edge.x"]).quota == Quota(max_concurrent=3)
    assert known.of_certificate(["edge"]) is None
    assert [known.of_token(text) for text in ("", TOKEN[:-1], "\udcff", "x" * 10**6)] == [None] * 4
    assert known.names == {"shop", "ops", "edge"}


def test_an_empty_list_of_models_is_none_of_them():
    assert not parsed({"name": "a", "tokens": [TOKEN], "models": []}).of_token(TOKEN).may_use("m")


def test_several_tokens_of_one_identity_make_rotation_possible():
    known = parsed({"name": "a", "tokens": [TOKEN, TOKEN + "2"]})
    assert known.of_token(TOKEN) is known.of_token(TOKEN + "2")


def test_yaml_does_as_well():
    text = f"identities:\n  - {{name: a, token_digests: ['{digest_text(TOKEN)}']}}\n"
    assert parsed_identities(text.encode()).of_token(TOKEN).name == "a"


def test_made_tokens_are_random_and_long():
    first, second = new_token(), new_token()
    assert first != second
    assert len(first) > 40 and first.isascii() and " " not in first


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00", "neither YAML nor JSON"),
        (b"a: b: c", "neither YAML nor JSON"),
        (b"", "the document: "),
        (b"[1]", "the document: "),
        (b"identities: [{name: a}]", "'a' has neither a token nor a certificate"),
        (b"identities: [{name: '../a', certificates: [x]}]", "identities.0.name: "),
        (b"identities: [{name: a, certificates: [x], rolls: []}]", "identities.0.rolls: "),
        (b"identities: [{name: a, certificates: [x], roles: [root]}]", "identities.0.roles.0: "),
        (b"identities: [{name: a, certificates: [x], quota: {bytes_per_s: -1}}]", "bytes_per_s: "),
        (
            b"identities: [{name: a, certificates: [x], quota: {bytes_per_s: .nan}}]",
            "bytes_per_s: ",
        ),
        (b"identities: [{name: a, tokens: [hunter2secret]}]", "shorter than 16 characters"),
        (b"identities: [{name: a, token_digests: ['sha256:hunter2secret']}]", "64 hex digits"),
        (b"identities: [{name: a, tokens: [{hunter2secret: 1}]}]", "identities.0.tokens.0: "),
        (
            b"identities: [{name: a, certificates: [x]}, {name: a, certificates: [y]}]",
            "'a' is named twice",
        ),
        (
            b"identities: [{name: a, certificates: [x]}, {name: b, certificates: [x]}]",
            "'x' belongs to two identities",
        ),
        (
            b"identities: [{name: a, tokens: [hunter2secrethunter2secret]},"
            b" {name: b, tokens: [hunter2secrethunter2secret]}]",
            "token of identity 'b' belongs to another one",
        ),
    ],
)
def test_a_wrong_file_is_refused_without_showing_a_token(content, sentence):
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        parsed_identities(content)
    assert caught.value.reason == "BAD_AUTH_FILE"
    assert "hunter2" not in caught.value.message


def test_a_file_is_named_that_cannot_be_read_or_is_too_large(tmp_path):
    with pytest.raises(InvalidArgument, match="nothere.yaml: it cannot be read: No such file"):
        read_identities(tmp_path / "nothere.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(InvalidArgument, match="large.yaml: it is larger than"):
        read_identities(large)
