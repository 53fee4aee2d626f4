from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from zeroconf import Zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from server.bonjour import Announcement, addresses, announced, services

HERE = Announcement("127.0.0.1", 7861, tls=False)


def _on_loopback() -> AsyncZeroconf:
    return AsyncZeroconf(zc=Zeroconf(interfaces=["127.0.0.1"]))


def _has_multicast() -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1"))  # fmt: skip
    except OSError:
        return False
    return True


def test_an_announcement_has_address_port_and_tls_and_nothing_else() -> None:
    plain, own = services(HERE, "mac-mini.local", ["192.168.1.2"])
    assert (plain.type, own.type) == ("_http._tcp.local.", "_anemone._tcp.local.")
    assert set(plain.decoded_properties) == {"path", "version", "tls"}
    assert plain.decoded_properties["tls"] == "0"
    assert plain.server == "mac-mini.local."
    assert plain.parsed_addresses() == ["192.168.1.2"]


def test_with_tls_no_plain_http_is_promised() -> None:
    infos = services(Announcement("0.0.0.0", 1, tls=True), "mac", ["192.168.1.2"])
    assert [info.type for info in infos] == ["_https._tcp.local.", "_anemone._tcp.local."]
    assert infos[0].decoded_properties["tls"] == "1"


def test_a_long_host_name_fits_into_a_label() -> None:
    for info in services(HERE, "m" * 63, []):
        assert len(info.name.partition(f".{info.type}")[0].encode()) <= 63


@pytest.mark.slow
@pytest.mark.skipif(not _has_multicast(), reason="needs multicast")
def test_the_server_is_announced_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def look(other: AsyncZeroconf, name: str) -> bool:
        service = AsyncServiceInfo("_anemone._tcp.local.", name)
        return await service.async_request(other.zeroconf, 3000) and service.port == HERE.port

    async def scenario() -> tuple[bool, bool]:
        async with announced(HERE, _on_loopback):
            while "_anemone._tcp" not in caplog.text:
                await asyncio.sleep(0.05)
            name = caplog.records[-1].getMessage().removeprefix("announced as ")
            other = _on_loopback()
            during = await look(other, name)
            await other.async_close()
        other = _on_loopback()
        service = AsyncServiceInfo("_anemone._tcp.local.", name)
        after = await service.async_request(other.zeroconf, 500)
        await other.async_close()
        return during, after

    caplog.set_level(logging.INFO, "anemone.bonjour")
    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == (True, False)


def test_a_machine_without_network_is_served_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def none() -> AsyncZeroconf:
        raise OSError("no such device")

    async def scenario() -> str:
        async with announced(HERE, none):
            return "served"

    assert asyncio.run(scenario()) == "served"
    assert "no such device" in caplog.text


def test_a_link_local_address_is_announced_without_this_machines_interface() -> None:
    assert addresses("fe80::1%en0") == ["fe80::1"]
    assert services(HERE, "mac", addresses("fe80::1%en0"))[0].parsed_addresses() == ["fe80::1"]
