"""No user, password or query of an address of any scheme is shown."""

from __future__ import annotations

import pytest

import exporter
from exporter.files.address import is_mistyped, is_url, public, without_secrets
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.pipeline import naming

ADDRESSES = [
    ("https://me:s3cret@host/dir/m.h5?sig=TOKEN", "https://host/dir/m.h5"),
    ("https://host:8080/m.h5#TOKEN", "https://host:8080/m.h5"),
    ("ftp://me:s3cret@host/m.h5", "ftp://host/m.h5"),
    ("sftp://me:s3/cret@host/m.h5", "sftp://host/m.h5"),
    ("sftp://me:s3?cret@host/m.h5", "sftp://host/m.h5"),
    ("smb://DOMAIN;me:s3cret@host/share/m.h5", "smb://host/share/m.h5"),
    ("s3://KEYID:s3cret@bucket/m.h5", "s3://bucket/m.h5"),
    ("s3://bucket/m.h5?versionId=TOKEN", "s3://bucket/m.h5"),
    ("htp://h/m.h5?TOKEN", "htp://h/m.h5"),
    ("htp://me:s3cret@h/m.h5?sig=TOKEN", "htp://h/m.h5"),
    ("https:/me:s3cret@h/m.h5?sig=TOKEN", "https:/h/m.h5"),
    ("blockcache::http://me:s3cret@h/m.h5?sig=TOKEN", "blockcache::http://h/m.h5"),
    ("zip://m.h5::simplecache::https://me:s3cret@h/a.zip?sig=TOKEN", "zip://m.h5::simplecache::https://h/a.zip"),
]
SOUND = ["s3://bucket/what?#1.h5", "s3://bucket/m?.h5", "memory://a/b@c.h5", "https://host/a@b/m.h5", "C:\\models\\m.h5", "C:/models/m.h5",
         "a/me:pw@b/m.h5?x", "models/m.h5", "/tmp/a::b.h5"]


@pytest.mark.parametrize(("address", "expected"), ADDRESSES)
def test_what_is_shown(address, expected):
    assert public(address) == expected
    for text in (public(address), naming.public(address), place_for(address).name, repr(place_for(address)) if is_url(address) else ""):
        assert not any(secret in text for secret in ("cret", "TOKEN", "KEYID", "me:"))
    assert "TOKEN" not in naming.public(address)


@pytest.mark.parametrize("address", SOUND)
def test_what_holds_no_secret_is_shown_as_it_is(address):
    assert public(address) == naming.public(address) == address


def test_two_queries_are_told_apart():
    first, second = (naming.public(f"https://host/m.h5?{query}") for query in ("key=one", "key=two"))
    assert first != second
    assert first == naming.public("https://me:pw@host/m.h5?key=one")


def test_what_a_library_says():
    url = "https://me:s3%20cret@host/m.h5?sig=TOKEN&of=ab"
    said = without_secrets(f"no host for {url}; user me, password 's3 cret', signature TOKEN, ab", url)
    assert not any(secret in said for secret in ("s3", "cret", "TOKEN"))
    assert "host/m.h5" in said


def test_only_what_is_not_there_is_mistyped(tmp_path, monkeypatch):
    assert is_mistyped("http:/h/m.h5")
    assert not any(map(is_mistyped, ("http://h/m.h5", "C:/m.h5", "m.h5", "a/b:/c")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:").mkdir()
    (tmp_path / "odd:" / "m?x.h5").touch()
    assert Place("odd:/m?x.h5").name == "m?x.h5"
    with pytest.raises(FileNotFoundError) as error:
        exporter.read("htp:/me:s3cret@h/m.h5?sig=TOKEN")
    assert str(error.value) == "m.h5: no such file or folder"
