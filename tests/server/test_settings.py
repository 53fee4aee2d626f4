from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.errors import AnemoneError
from server.settings import Settings, load_settings

SECRET = "a-secret-of-the-owner"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine that runs the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ANEMONE_{name.upper()}", raising=False)
    monkeypatch.delenv("ANEMONE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def written(folder: Path, text: str) -> Path:
    file = folder / "anemone.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_flags_go_before_variables_and_variables_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, 'port = 1\nmax_queue = 2\nrate_limit = 3\ncors_origins = ["http://localhost:3000"]')
    monkeypatch.setenv("ANEMONE_PORT", "10")
    monkeypatch.setenv("ANEMONE_MAX_QUEUE", "20")
    settings = load_settings({"port": "100"}, file)
    assert (settings.port, settings.max_queue, settings.rate_limit) == (100, 20, 3)
    assert settings.cors_origins == ("http://localhost:3000",)
    assert settings.retention_days == 30


def test_the_usual_file_is_read_where_it_is_there(tmp_path: Path) -> None:
    assert load_settings({}).port == 7860
    written(tmp_path / "config" / "anemone", "port = 1")
    assert load_settings({}).port == 1


def test_a_variable_names_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANEMONE_CONFIG", str(written(tmp_path, "port = 1")))
    assert load_settings({}).port == 1
    assert load_settings({}, written(tmp_path / "other", "port = 2")).port == 2
    monkeypatch.setenv("ANEMONE_CONFIG", str(tmp_path / "nothing.toml"))
    with pytest.raises(AnemoneError, match=r"nothing\.toml"):
        load_settings({})


def test_a_network_is_told_by_its_compute_unit_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, '[compute_units]\ndefault = "ALL"')
    assert load_settings({}, file).compute_units == {"default": "ALL"}
    monkeypatch.setenv("ANEMONE_COMPUTE_UNITS", '{"unet": "CPU_ONLY"}')
    assert load_settings({}, file).compute_units == {"unet": "CPU_ONLY"}
    assert load_settings({"compute_units": '{"unet": "ALL"}'}, file).compute_units == {"unet": "ALL"}


def test_words_may_be_a_list_or_have_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANEMONE_ALLOWED_HOSTS", "Studio.example, mac.example.")
    assert load_settings({}).allowed_hosts == ("studio.example", "mac.example")


@pytest.mark.parametrize(
    ("text", "named", "accepted"),
    [
        ("prot = 1", "prot", "port"),
        ("port = 99999", "port", "65535"),
        ('host = "mac.example"', "mac.example", "127.0.0.1"),
        ('log_format = "xml"', "log_format", "json"),
        ("retention_days = 0", "retention_days", "above 0"),
        ('allowed_hosts = ["a:80"]', "a:80", "without port"),
        ('allowed_hosts = ["*"]', "'*'", "names"),
        ('cors_origins = ["*"]', "'*'", "scheme"),
        ('cors_origins = ["null"]', "null", "scheme"),
        ('cors_origins = ["https://a.example/"]', "https://a.example/", "scheme"),
        ('tls_cert = "cert.pem"', "tls_cert", "both or neither"),
        ('compute_units = {unet = "NPU"}', "compute_units.unet", "CPU_AND_NE"),
        ('compute_units = {net = "ALL"}', "net", "vae_decoder"),
        ("port = ", "anemone.toml", "read"),
    ],
)
def test_a_mistake_is_named_with_what_is_accepted(tmp_path: Path, text: str, named: str, accepted: str) -> None:
    with pytest.raises(AnemoneError) as caught:
        load_settings({}, written(tmp_path, text))
    assert named in str(caught.value)
    assert accepted in str(caught.value)


def test_a_variable_that_is_no_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANEMONE_PROT", "1")
    with pytest.raises(AnemoneError, match=r"ANEMONE_PROT .*ANEMONE_PORT"):
        load_settings({})


@pytest.mark.parametrize("key", ["short-secret", "with a space in the secret", "schlüssel-schlüssel"])
def test_a_key_that_does_not_do_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    with pytest.raises(AnemoneError, match="api_key") as from_file:
        load_settings({}, written(tmp_path, f'api_key = "{key}"'))
    monkeypatch.setenv("ANEMONE_API_KEY", key)
    with pytest.raises(AnemoneError, match="16") as from_variable:
        load_settings({})
    assert key not in f"{from_file.value} {from_variable.value}"


def test_a_key_of_the_wrong_type_is_not_shown_either(tmp_path: Path) -> None:
    with pytest.raises(AnemoneError) as caught:
        load_settings({}, written(tmp_path, "api_key = 12345678901234567890"))
    assert "12345678901234567890" not in str(caught.value)


def test_settings_do_not_print_their_key() -> None:
    settings = load_settings({"api_key": SECRET})
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("host", "on_network"),
    [("localhost", False), ("127.0.0.1", False), ("127.1.2.3", False), ("::1", False), ("0.0.0.0", True), ("::", True),
     ("192.168.1.2", True)],
)  # fmt: skip
def test_only_loopback_is_not_on_the_network(host: str, on_network: bool) -> None:
    assert load_settings({"host": host}).on_network is on_network


def test_every_setting_is_described() -> None:
    settings: dict[str, Any] = dict(Settings.model_fields)
    assert all(field.description for field in settings.values())


@pytest.mark.parametrize("name", ["retention_days", "retention_gb", "idle_unload_minutes", "memory_budget_gb"])
@pytest.mark.parametrize("value", ["inf", "1e400", "nan"])
def test_a_number_that_is_not_finite_is_refused(name: str, value: str) -> None:
    with pytest.raises(AnemoneError, match=f"(?i){name}|{name.replace('_', '-')}"):
        load_settings({name: value})


def test_a_model_below_the_current_folder_is_not_taken_for_one_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({"model": "./owner/name"}).model == tmp_path / "owner/name"
    assert load_settings({"model": "owner/name"}).model == Path("owner/name")


def test_a_file_in_place_of_the_data_folder_is_named_as_it_was_written() -> None:
    with pytest.raises(AnemoneError) as caught:
        load_settings({"data_dir": "/etc/passwd"})
    assert "'/etc/passwd'" in str(caught.value)
    assert "Path(" not in str(caught.value)
