"""Addresses taken apart: the path in a chain, what stands around it, and names with signs that mean something."""

from __future__ import annotations

import pytest

from exporter.files.address import (
    child_of,
    escaped,
    is_url,
    is_web,
    name_of,
    parent_of,
    parts,
    public,
    scheme_of,
    without_file_scheme,
    without_secrets,
)


@pytest.mark.parametrize(("url", "wanted"), [
    ("s3://bucket/a/b.h5", ("s3://", "bucket/a/b.h5", "")), ("https://host/a.h5?x=1&y=/z#f", ("https://", "host/a.h5", "?x=1&y=/z#f")),
    ("https://host/a.h5#f", ("https://", "host/a.h5", "#f")), ("s3://bucket/a?b#c.h5", ("s3://", "bucket/a?b#c.h5", "")),
    ("zip://a/b.keras::https://host/z.zip?x=1", ("zip://", "a/b.keras", "::https://host/z.zip?x=1")),
    ("simplecache::s3://bucket/a.h5", ("simplecache::s3://", "bucket/a.h5", "")),
    ("simplecache::HTTP://host/a.h5?x", ("simplecache::HTTP://", "host/a.h5", "?x")),
    ("filecache::zip://a.h5::s3://b/z.zip", ("filecache::zip://", "a.h5", "::s3://b/z.zip")), ("a/b.h5", ("a/b.h5", "", "")),
    ("a::b", ("a::b", "", ""))])
def test_the_parts_of_an_address(url, wanted):
    assert parts(url) == wanted
    assert "".join(parts(url)) == url


@pytest.mark.parametrize(("url", "name", "parent", "child", "scheme", "web"), [
    ("s3://bucket/a/b.h5", "b.h5", "s3://bucket/a", "s3://bucket/a/b.h5/x y", "s3", False),
    ("https://host/a/b%20c.h5?q=1", "b c.h5", "https://host/a?q=1", "https://host/a/b%20c.h5/x%20y?q=1", "https", True),
    ("zip://a/b.keras::https://host/z.zip?x=1", "b.keras", "zip://a::https://host/z.zip?x=1",
     "zip://a/b.keras/x y::https://host/z.zip?x=1", "zip", False),
    ("zip://::s3://b/z.zip", "zip:", "zip://::s3://b/z.zip", "zip://x y::s3://b/z.zip", "zip", False),
    ("simplecache::s3://bucket/m/", "m", "simplecache::s3://bucket", "simplecache::s3://bucket/m/x y", "s3", False),
    ("simplecache::https://host/m/", "m", "simplecache::https://host", "simplecache::https://host/m/x%20y", "https", True),
    ("s3://bucket", "bucket", "s3://", "s3://bucket/x y", "s3", False), ("HTTP://host/a.h5", "a.h5", "HTTP://host", "HTTP://host/a.h5/x%20y",
                                                                          "http", True),
    ("sftp://me:pw@host/a%20b.h5", "a%20b.h5", "sftp://me:pw@host", "sftp://me:pw@host/a%20b.h5/x y", "sftp", False)])
def test_its_name_and_what_lies_around_it(url, name, parent, child, scheme, web):
    assert (name_of(url), parent_of(url), child_of(url, ("x y",)), scheme_of(url), is_web(url)) == (name, parent, child, scheme, web)
    assert child_of(url, ("a", "b/c")).count("a/b/c") == 1


@pytest.mark.parametrize(("url", "wanted"), [
    ("https://h/100%.h5", "https://h/100%25.h5"), ("https://h/a%20b.h5", "https://h/a%20b.h5"), ("https://h/a b.h5", "https://h/a%20b.h5"),
    ("https://h/%zz%2", "https://h/%25zz%252"), ("https://h/ä?x=1&y=[2]#z", "https://h/%C3%A4?x=1&y=[2]#z"), ("https://h/%AF%af", "https://h/%AF%af")])
def test_what_may_not_stand_in_a_web_address_is_escaped(url, wanted):
    assert escaped(url) == wanted


@pytest.mark.parametrize(("path", "wanted"), [
    ("file:///tmp/a%20b.h5", "/tmp/a b.h5"), ("FILE://localhost/tmp/a.h5", "/tmp/a.h5"), ("file:///a/*.h5", "/a/*.h5"),
    ("zip://a.h5::file:///z.zip", "zip://a.h5::file:///z.zip"), ("file:///z.zip::x", "file:///z.zip::x"), ("model.h5", "model.h5"),
    ("s3://b/k", "s3://b/k")])
def test_a_file_address_is_a_path(path, wanted):
    assert without_file_scheme(path) == wanted


@pytest.mark.parametrize(("word", "yes"), [("ab://x", True), ("a://x", False), ("ab::x", True), ("ab:x", False), ("1b://x", False),
                                          ("a+b.c-d://x", True), ("x ab://", False)])
def test_two_letters_make_a_protocol(word, yes):
    assert is_url(word) == yes


@pytest.mark.parametrize(("link", "wanted"), [
    ("sftp://me:1x/34@host/m.h5", "sftp://host/m.h5"), ("sftp://host:22/a@b/m.h5", "sftp://host:22/a@b/m.h5"),
    ("sftp://host/a:x@b/m.h5", "sftp://host/a:x@b/m.h5"), ("sftp://me@host/m.h5", "sftp://host/m.h5"),
    ("sftp://a@b:c@host/m.h5", "sftp://host/m.h5"), ("http://[::1]/a@b.h5", "http://[::1]/a@b.h5"), ("sftp://me:pw/rest", "sftp://me:pw/rest"),
    ("abfs://container@account/m.h5", "abfs://container@account/m.h5"), ("hf://user/repo@rev/m.h5", "hf://user/repo@rev/m.h5"),
    ("s3://b/m.h5?a/b=c", "s3://b/m.h5?a/b=c"), ("s3://b/m.h5?a=c", "s3://b/m.h5"), ("https://h/m.h5?a/b", "https://h/m.h5"),
    ("ftp://h/m.h5#a", "ftp://h/m.h5"), ("s3://b/m.h5#a", "s3://b/m.h5#a")])
def test_what_is_shown_of_a_link(link, wanted):
    assert public(link) == wanted
    assert public(f"simplecache::{link}") == f"simplecache::{wanted}"


def test_no_part_of_a_secret_is_shown():
    url = "zip://m.h5::sftp://me:pass%21word@host/z.zip?sig=TOKEN&n=ab"
    for said in ("pass%21word", "pass!word", "me:pass!word", "TOKEN", "sig=TOKEN&n=ab", "about TOKEN: pass!word"):
        shown = without_secrets(f"no answer: {said}", url)
        assert "…" in shown
        assert not any(secret in shown for secret in ("pass", "word", "TOKEN"))
    assert without_secrets("at me and ab", url) == "at me and ab", "words of two letters are everywhere"
    assert without_secrets("see https://other:pw@x.org/a?b=c and ftp://y.org/d", url) == "see https://x.org/a and ftp://y.org/d"
    assert without_secrets("no such file", "s3://bucket/m.h5") == "no such file"
