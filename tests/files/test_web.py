"""One file of a web server: what its answers may be, number by number; the requests themselves are in test_remote.py."""

from __future__ import annotations

import asyncio

import pytest

from exporter.errors import FormatError, MissingFileError
from exporter.files import web
from exporter.files.store_errors import StatusError
from exporter.files.web import Answer, WebFile, _boundary, _may_go_better

aiohttp = pytest.importorskip("aiohttp")
MULTI = {"Content-Type": "multipart/byteranges; boundary=BOUND"}
DATA = bytes(range(100, 200))


class Told(WebFile):
    """A file whose answers are told. asked: (method, range, whole) of each question."""

    def __init__(self, *answers, size=100):
        super().__init__(None, "https://host/m.h5", "m.h5")
        self.answers, self.asked, self._size = list(answers), [], size

    async def _ask(self, method, headers, whole=0):
        self.asked.append((method, headers.get("Range"), whole))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _run(self, work):
        return asyncio.run(work)


def part(start, end, size=100, status=206, **headers):
    return Answer(status, {"Content-Range": f"bytes {start}-{end - 1}/{size}", **headers}, DATA[start:end])


def several(*ranges, size=100):
    body = b"".join(b"\r\n--BOUND\r\nContent-Type: x\r\ncontent-range: bytes %d-%d/%d\r\n\r\n" % (start, end - 1, size) + DATA[start:end]
                    for start, end in ranges)
    return Answer(206, MULTI, body + b"\r\n--BOUND--\r\n")


# what is known of it

@pytest.mark.parametrize(("headers", "size", "marks"), [
    ({"Content-Length": "7"}, 7, {}), ({}, None, {}), ({"Content-Length": "x"}, None, {}), ({"Content-Length": "-7"}, None, {}),
    ({"Content-Length": "7", "Content-Encoding": "gzip"}, None, {}), ({"Content-Length": "7", "Content-Encoding": "identity"}, 7, {}),
    ({"Content-Length": "1", "Content-Range": "bytes 0-0/50"}, 50, {}), ({"Content-Length": "1", "Content-Range": "bytes 0-0/*"}, None, {}),
    ({"Content-Length": "7", "ETag": '"a"', "Last-Modified": "today"}, 7, {"ETag": '"a"', "Last-Modified": "today"})])
def test_what_a_head_says(headers, size, marks):
    file = Told(Answer(200, headers, b""))
    assert file.info() == {"name": "https://host/m.h5", "type": "file", "size": size, **marks}
    assert file.asked == [("HEAD", None, 0)]


def test_an_address_that_is_signed_for_get_alone():
    file = Told(StatusError(403, "no"), part(0, 1, 70, ETag='"a"'))
    assert file.info() == {"name": "https://host/m.h5", "type": "file", "size": 70, "ETag": '"a"'}
    assert file.asked == [("HEAD", None, 0), ("GET", "bytes=0-0", 0)]
    with pytest.raises(FormatError, match="access denied: the server answered 403"):
        Told(StatusError(405, "no"), StatusError(403, "no")).info()
    for status in (404, 410):
        assert Told(StatusError(status, "gone")).info() is None


@pytest.mark.parametrize(("answer", "packs"), [(several((0, 1), (2, 3)), True), (Answer(206, {}, b""), False),
                                               (Answer(200, MULTI, b""), False), (StatusError(416, ""), False)])
def test_whether_many_ranges_come_in_one_answer(answer, packs):
    file = Told(answer)
    assert file.packs_ranges() is packs
    assert file.packs_ranges() is packs, "asked once"
    assert file.asked == [("HEAD", "bytes=0-0,2-2", 0)]


# ranges

def test_ranges_by_one_request_each():
    file = Told(part(0, 5), part(50, 60), part(90, 100))
    assert file.fetch([(0, 5), (50, 60), (90, 100)]) == [DATA[0:5], DATA[50:60], DATA[90:100]]
    assert file.asked == [("GET", "bytes=0-4", 5), ("GET", "bytes=50-59", 10), ("GET", "bytes=90-99", 10)]
    file.answers = [part(7, 8)]
    assert file.fetch([(7, 8)]) == [DATA[7:8]]


def test_a_server_without_ranges_is_asked_for_the_first_alone():
    file = Told(Answer(200, {}, DATA))
    assert file.fetch([(3, 5), (50, 60)]) == [DATA]
    assert file.asked == [("GET", "bytes=3-4", 2)]
    assert Told(Answer(200, {}, DATA)).fetch([(3, 5)]) == [DATA]
    assert Told(Answer(200, {}, DATA)).fetch_whole() == DATA


@pytest.mark.parametrize(("status", "words"), [(500, "the server answered 500"), (403, "access denied"), (404, "no such file")])
def test_a_server_that_refuses_to_send_it(status, words):
    for fetch in (Told.fetch_whole, lambda file: file.fetch([(0, 5)]), lambda file: file.fetch([(0, 5), (7, 9)])):
        with pytest.raises((FormatError, MissingFileError), match=words):
            fetch(Told(StatusError(status, "no")))


@pytest.mark.parametrize(("said", "words"), [
    ("bytes 11-19/100", "expected the bytes 10-19, got 'bytes 11-19/100'"), ("bytes 9-19/100", "expected the bytes 10-19"),
    ("bytes 10-18/100", "expected the bytes 10-19"), ("", "expected the bytes 10-19, got ''"), ("bytes 10-19", "expected the bytes"),
    ("bytes 10-19/101", "the file changed on the server"), ("bytes 10-19/99", "the file changed on the server"),
    ("bytes 10-19/*", None), ("bytes 10-25/100", None), ("bytes 10-19/100", None)])
def test_an_answer_has_to_be_the_part_that_was_asked_for(said, words):
    file = Told(Answer(206, {"Content-Range": said}, DATA[10:20]))
    if words is None:
        assert file.fetch([(10, 20)]) == [DATA[10:20]]
    else:
        with pytest.raises(FormatError, match=words):
            file.fetch([(10, 20)])


def test_the_size_in_an_answer_is_no_contradiction_where_none_was_known():
    assert Told(part(10, 20, 777), size=None).fetch([(10, 20)]) == [DATA[10:20]]


def packing(*answers):
    file = Told(*answers)
    file._packs = True
    return file


def test_many_ranges_in_one_answer():
    wanted = [(0, 5), (50, 60), (90, 100)]
    file = packing(several(*wanted))
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted]
    assert file.asked == [("GET", "bytes=0-4, 50-59, 90-99", 25)]
    file = packing(several((0, 60), (90, 100)))
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted], "the server may merge them"
    assert packing(Answer(200, {}, DATA)).fetch(wanted) == [DATA[start:end] for start, end in wanted], "or send all"
    assert packing(part(3, 5)).fetch([(3, 5)]) == [DATA[3:5]]


def test_what_does_not_come_in_one_answer_is_asked_for_alone():
    wanted = [(0, 5), (50, 60), (90, 100)]
    file = packing(several((0, 5), (50, 60)), part(90, 100))
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted]
    assert file.asked[1:] == [("GET", "bytes=90-99", 10)]
    file = packing(part(0, 5), part(50, 60), part(90, 100))  # the first alone, as one range
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted]
    assert len(file.asked) == 3
    file = packing(part(0, 100))  # all of them in one
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted]
    cut = Answer(206, {"Content-Range": "bytes 0-4/100"}, DATA[0:4])
    file = packing(cut, part(0, 5), part(50, 60), part(90, 100))
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted], "an answer that is not as long as it says counts for nothing"


def test_no_request_has_more_than_sixty_four_ranges():
    wanted = [(at, at + 1) for at in range(0, 65)]
    file = packing(several(*wanted[:64]), part(64, 65))
    assert file.fetch(wanted) == [DATA[start:end] for start, end in wanted]
    assert [asked.count("-") for _, asked, _ in file.asked] == [64, 1]


@pytest.mark.parametrize(("answer", "parts"), [
    (several((0, 3), (10, 12)), [(0, DATA[0:3]), (10, DATA[10:12])]), (Answer(200, {}, b"all"), [(0, b"all")]),
    (Answer(206, MULTI, b"--BOUND\r\nContent-Range: bytes 4-5/100\r\n\r\nxy\r\n--BOUND\r\nno place\r\n\r\nzz"), [(4, b"xy")]),
    (Answer(206, MULTI, b"--BOUND\r\nContent-Range: bytes 4-5/100\r\n\r\nxy\r\n--BOUND"), [(4, b"xy")]),
    (Answer(206, MULTI, b"--BOUND\r\nX: 1\r\nCONTENT-RANGE:bytes 4-5/*\r\n\r\n--BOUND"), [(4, b"--")]),
    (Answer(206, MULTI, b"--OTHER\r\nContent-Range: bytes 0-1/9\r\n\r\nzz--BOUND\r\nContent-Range: bytes 4-5/100\r\n\r\nxy"),
     [(4, b"xy")]),
    (Answer(206, MULTI, b"nothing"), []), (Answer(206, {}, b"nothing"), []), (Answer(206, {"Content-Range": "bytes 4-5/9"}, b"xyz"), []),
    (Answer(206, {"Content-Range": "bytes 4-5/9"}, b"xy"), [(4, b"xy")])])
def test_the_parts_of_an_answer(answer, parts):
    assert Told()._parts(answer) == parts


def test_a_part_of_another_version_is_refused():
    with pytest.raises(FormatError, match="the file changed on the server"):
        packing(several((0, 5), (50, 60), size=99)).fetch([(0, 5), (50, 60)])


@pytest.mark.parametrize(("kind", "boundary"), [
    ("multipart/byteranges; boundary=ab-c", b"ab-c"), ('Multipart/ByteRanges; boundary="a=b"; x=y', b"a=b"),
    ("multipart/byteranges; boundary=ab;x", b"ab"), ("multipart/byteranges", None), ("multipart/mixed; boundary=x", None), ("", None)])
def test_what_stands_between_parts(kind, boundary):
    assert _boundary(Answer(206, {"Content-Type": kind}, b"")) == boundary


# versions

def test_the_first_answer_says_which_version_it_is():
    file = Told()
    file._check_version({"ETag": '"a"', "Last-Modified": "Monday"})
    file._check_version({"ETag": '"a"', "Last-Modified": "Tuesday"})
    file._check_version({})
    with pytest.raises(FormatError, match="the file changed on the server while it was being read"):
        file._check_version({"ETag": '"b"', "Last-Modified": "Monday"})
    file = Told()
    file._check_version({"Last-Modified": "Monday"})
    with pytest.raises(FormatError, match="the file changed"):
        file._check_version({"Last-Modified": "Tuesday"})
    file = Told(Answer(200, {"ETag": '"a"'}, b""), Answer(200, {"ETag": '"b"'}, b""))
    file.info()
    with pytest.raises(FormatError, match="the file changed"):
        file._check_version({"ETag": '"b"'})
    file.info()
    file._check_version({"ETag": '"b"'})


# what goes wrong

@pytest.mark.parametrize(("error", "better"), [
    (ConnectionResetError(), True), (aiohttp.ServerDisconnectedError(), True), (aiohttp.ClientPayloadError(), True),
    (aiohttp.ClientOSError(), True), (ValueError(), False), (aiohttp.InvalidURL("x"), False),
    (aiohttp.ClientConnectorError(None, OSError(104, "reset")), False)], ids=lambda value: type(value).__name__)
def test_a_connection_that_was_never_made_will_not_be_made(error, better):
    assert _may_go_better(error) is better


def test_what_is_said_of_an_error():
    file = WebFile(None, "https://me:pw@host/m.h5?sig=TOKEN", "m.h5")
    assert file.failed(ConnectionResetError("x")).what == "cannot be read: the connection broke repeatedly"
    assert file.failed(aiohttp.ServerDisconnectedError()).what == "cannot be read: the connection broke repeatedly"
    assert file.failed(ValueError("no TOKEN for https://me:pw@host/m.h5?sig=TOKEN")).what == "cannot be read: no … for https://host/m.h5"
    assert file.failed(ValueError()).what == "cannot be read: ValueError"
    assert file.failed(StatusError(500, "")).what == "cannot be read: the server answered 500"


# one request

class Response:
    """What aiohttp gives for a request, as an asynchronous context."""

    def __init__(self, status=200, headers=None, body=b"", reason=None):
        self.status, self.headers, self.body, self.reason, self.content = status, headers or {}, body, reason, self

    def __repr__(self):
        return f"Response({self.status})"

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def iter_chunked(self, size):
        for at in range(0, len(self.body), 3):
            yield self.body[at:at + 3]


class Session:
    """A session, and the store that has it. sent: (method, URL, headers, options) of each request."""

    def __init__(self, *responses, **kwargs):
        self.responses, self.sent, self.kwargs = list(responses), [], kwargs

    async def set_session(self):
        return self

    def request(self, method, url, *, headers, allow_redirects, **options):
        assert allow_redirects
        self.sent.append((method, str(url), headers, options))
        response = self.responses.pop(0)
        if isinstance(response, BaseException):
            raise response
        return response


def asked(session, method="GET", headers=None, whole=0, version=None, url="https://host/a%20b%.h5?x=1"):
    file = WebFile(session, url, "m.h5")
    file._version = version or {}
    return asyncio.run(file._once(method, headers or {}, whole))


def test_what_is_sent():
    session = Session(Response(), Response(), Response(), Response(), headers={"Accept": "x"}, timeout=5)
    asked(session, headers={"Range": "bytes=0-1"}, version={"ETag": '"a"'})
    asked(session, method="HEAD", version={"ETag": '"a"'})
    asked(session, version={"ETag": 'W/"a"'})
    asked(session)
    common = {"Accept": "x", "Accept-Encoding": "identity"}
    assert session.sent == [
        ("GET", "https://host/a%20b%25.h5?x=1", {**common, "Range": "bytes=0-1", "If-Match": '"a"'}, {"timeout": 5}),
        *((method, "https://host/a%20b%25.h5?x=1", common, {"timeout": 5}) for method in ("HEAD", "GET", "GET"))]
    assert session.kwargs == {"headers": {"Accept": "x"}, "timeout": 5}


def test_what_comes_back():
    assert asked(Session(Response(206, {"X": "1"}, b"abcdefgh"))) == Answer(206, {"X": "1"}, b"abcdefgh")
    assert asked(Session(Response(200, {}, b"abc")), method="HEAD").body == b""
    with pytest.raises(FormatError, match="the file changed on the server"):
        asked(Session(Response(412)))
    for status in (400, 503):
        with pytest.raises(StatusError) as caught:
            asked(Session(Response(status, {"Retry-After": "7"}, reason="busy")))
        assert (caught.value.status, caught.value.message, caught.value.retry_after) == (status, "busy", "7")
    assert asked(Session(Response(399))).status == 399


@pytest.mark.parametrize(("headers", "body", "whole", "is_cut"), [
    ({}, b"abc", 4, True), ({}, b"abcd", 4, False), ({}, b"abcde", 4, False), ({"Content-Length": "3"}, b"abc", 4, False)])
def test_an_answer_that_ends_early_is_a_lost_connection(headers, body, whole, is_cut):
    session = Session(Response(206, headers, body), Response(200, {}, body))
    if is_cut:
        with pytest.raises(ConnectionResetError):
            asked(session, whole=whole)
        assert asked(session, whole=whole).body == body, "a whole file may be as long as it likes"
    else:
        assert asked(session, whole=whole).body == body


def test_an_answer_to_a_head_has_no_bytes_that_could_be_lost():
    file = WebFile(Session(Response(206, MULTI)), "https://host/m.h5", "m.h5")
    assert asyncio.run(file._ask("HEAD", {"Range": web.PROBE})) == Answer(206, MULTI, b"")


@pytest.mark.parametrize(("headers", "length", "fits"), [({}, 8, True), ({}, 9, False), ({"Content-Length": "8"}, 8, True),
                                                        ({"Content-Length": "9"}, 9, False), ({"Content-Length": "9"}, 8, False),
                                                        ({"Content-Length": "x"}, 8, True)])
def test_no_answer_may_be_longer_than_what_is_kept(monkeypatch, headers, length, fits):
    monkeypatch.setattr(web, "MAX_KEPT", 8)
    session = Session(Response(200, headers, b"x" * length))
    if fits:
        assert asked(session).body == b"x" * length
    else:
        with pytest.raises(FormatError, match="expected to fetch at most 8 bytes of it, needed more"):
            asked(session)


def test_only_the_answers_that_have_bytes_say_the_version():
    for headers, checked in (({"Range": "bytes=0-1"}, True), ({"Range": "bytes=0-0,2-2"}, False), ({}, False)):
        session = Session(Response(206, {"ETag": '"b"'}, b"x"))
        if checked:
            with pytest.raises(FormatError, match="the file changed"):
                asked(session, headers=headers, version={"ETag": '"a"'})
        else:
            assert asked(session, headers=headers, version={"ETag": '"a"'}).body == b"x"


@pytest.mark.parametrize(("first", "again"), [
    *((Response(status, {"Retry-After": "7"}), "7") for status in (408, 425, 429, 502, 503, 504)), (ConnectionResetError(), None),
    (aiohttp.ServerDisconnectedError(), None), (asyncio.TimeoutError(), None), (Response(500), False), (Response(404), False),
    (ConnectionRefusedError(), False), (aiohttp.InvalidURL("x"), False)], ids=repr)
def test_what_is_asked_again(monkeypatch, first, again):
    waited = []
    session = Session(first, first, Response(200, {}, b"x"))
    file = WebFile(session, "https://host/m.h5", "m.h5")
    monkeypatch.setattr(file._patience, "delay", lambda attempt, asked: waited.append((attempt, asked)) or 0)
    if again is False:
        with pytest.raises((StatusError, OSError, aiohttp.ClientError)):
            asyncio.run(file._ask("GET", {}))
        assert waited == []
    else:
        assert asyncio.run(file._ask("GET", {})).body == b"x"
        assert waited == [(0, again), (1, again)]


def test_what_is_asked_again_until_patience_ends(monkeypatch):
    session = Session(*[Response(503)] * 9)
    file = WebFile(session, "https://host/m.h5", "m.h5")
    monkeypatch.setattr(file._patience, "delay", lambda attempt, asked: 0 if attempt < 2 else None)
    with pytest.raises(StatusError):
        asyncio.run(file._ask("GET", {}))
    assert len(session.sent) == 3
