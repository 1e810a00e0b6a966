"""Tests of the addresses of boards."""

import pytest

from mobilenet_tvm.runtime.address import Address, check_key, join_host_port, split_host_port
from mobilenet_tvm.targets.errors import WrongUseError

FORMS = [
    ("local", Address("local")),
    ("rpc://127.0.0.1:9090", Address("rpc", "127.0.0.1", 9090)),
    ("rpc://[::1]:9090", Address("rpc", "::1", 9090)),
    ("tracker://shelf.example:9190/a72", Address("tracker", "shelf.example", 9190, "a72")),
    ("tracker://shelf:9190/rpi4.2-b_c", Address("tracker", "shelf", 9190, "rpi4.2-b_c")),
    ("ssh://board", Address("ssh", "board")),
    ("ssh://pi@board", Address("ssh", "board", user="pi")),
    ("ssh://pi@board:2222", Address("ssh", "board", 2222, user="pi")),
    ("ssh://pi@[fe80::1%eth0]:22", Address("ssh", "fe80::1%eth0", 22, user="pi")),
]

WRONG = [
    *("", "remote", "127.0.0.1:9090", "http://board:80", "rpc://", "rpc://board", "rpc://:9090"),
    *("rpc://board:0", "rpc://board:65536", "rpc://board:x", "rpc://board:9090/key", "rpc://[::1"),
    *("rpc://pi@board:9090", "tracker://shelf:9190", "tracker://shelf:9190/", "tracker://shelf/a"),
    *("tracker://shelf:9190/a/b", "tracker://shelf:9190/a b", "tracker://shelf:9190/a?b=1"),
    *("ssh://", "ssh://-oProxyCommand=x", "ssh://-x@board", "ssh://pi:secret@board", "ssh://a b"),
    *("ssh://board/key", "local://", "LOCAL"),
]


@pytest.mark.parametrize(("text", "address"), FORMS)
def test_an_address_is_read_and_written_the_same(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", WRONG)
def test_another_form_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WrongUseError, match="unknown address") as caught:
        Address.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["board:9090", "[::1]:9090"])
def test_host_and_port_are_read_and_written_the_same(text: str) -> None:
    assert join_host_port(*split_host_port(text)) == text


@pytest.mark.parametrize("text", ["board", ":9090", "::1:9090", "board:9090/x", "a@board:9090"])
def test_another_form_of_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(WrongUseError, match="HOST:PORT"):
        split_host_port(text)


@pytest.mark.parametrize("key", ["", "a b", "a:b", "a/b", "é"])
def test_a_key_that_a_tracker_would_misread_is_refused(key: str) -> None:
    with pytest.raises(WrongUseError, match="key"):
        check_key(key)
