"""``fedpdiff coordinator init``, ``site init`` and ``doctor``: files, modes, refusals and what is to mend."""

from __future__ import annotations

import datetime
import re
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from flwr.common.config import parse_config_args

from fedpdiff.cli import main
from fedpdiff.deployment import certificates, findings
from fedpdiff.deployment.certificates import make_authority, make_server, names_in, read_certificate
from fedpdiff.deployment.site import Site
from fedpdiff.fingerprint import code_fingerprint

SECRETS = ("ca.key", "server.key", "superexec.secret")
SITE_SECRETS = ("site.key", "runtime.key", "superexec.secret")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def coordinator(tmp_path: Path) -> Path:
    root = tmp_path / "coordinator"
    ports = ["--port", str(free_port()), "--superlink-port", str(free_port())]
    assert main(["coordinator", "init", str(root), "--host", "pfdm.example.org", *ports]) == 0
    return root


@pytest.fixture
def site(tmp_path: Path, coordinator: Path) -> Path:
    root = tmp_path / "hospital 1"
    assert main(site_init(root, coordinator)) == 0
    return root


def site_init(root: Path, coordinator: Path) -> list[str]:
    address = f"localhost:{free_port()}"
    given = ["--coordinator", address, "--ca", str(coordinator / "ca.crt"), "--name", "hospital-1"]
    return ["site", "init", str(root), *given, "--data", str(root.parent / "images é")]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_private_keys_are_for_their_owner_only(coordinator: Path, site: Path) -> None:
    for root, names in ((coordinator, SECRETS), (site, SITE_SECRETS)):
        assert root.stat().st_mode & 0o777 == 0o700
        for name in names:
            assert (root / name).stat().st_mode & 0o777 == 0o600, name


def test_nothing_secret_is_printed(coordinator: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", str(coordinator)])
    main(["doctor", str(site)])
    printed = "".join(capsys.readouterr())
    assert "superexec.secret" in printed
    for root, names in ((coordinator, SECRETS), (site, SITE_SECRETS)):
        for name in names:
            content = (root / name).read_bytes()
            lines = [line for line in content.decode("latin-1").splitlines() if "-----" not in line]
            assert not any(line in printed for line in lines if len(line) > 8), name
            assert content.hex() not in printed


def test_repeating_changes_nothing(coordinator: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(coordinator), contents(site)
    ports = dict(re.findall(r"^(\S*port) = (\d+)", (coordinator / "coordinator.toml").read_text(), re.M))
    settings = ["--port", ports["port"], "--superlink-port", ports["superlink-port"]]
    capsys.readouterr()
    assert main(["coordinator", "init", str(coordinator), "--host", "pfdm.example.org", *settings]) == 0
    assert main(site_init(site, coordinator)) == 0
    assert "Made in" not in capsys.readouterr().out
    assert (contents(coordinator), contents(site)) == before
    assert main(["coordinator", "init", str(coordinator), "--host", "other.example.org", *settings]) == 2
    assert "was set up with --host pfdm.example.org" in capsys.readouterr().err


def test_a_lost_server_certificate_is_made_anew_by_the_same_authority(coordinator: Path) -> None:
    before = contents(coordinator)
    (coordinator / "server.key").unlink()
    ports = dict(re.findall(r"^(\S*port) = (\d+)", before["coordinator.toml"].decode(), re.M))
    settings = ["--port", ports["port"], "--superlink-port", ports["superlink-port"]]
    assert main(["coordinator", "init", str(coordinator), "--host", "pfdm.example.org", *settings]) == 0
    after = contents(coordinator)
    assert {name for name in before if before[name] != after[name]} == {"server.key", "server.pem"}


def test_the_server_certificate_is_vouched_for(coordinator: Path, site: Path) -> None:
    authority = read_certificate((site / "ca.crt").read_bytes())
    server = read_certificate((coordinator / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    assert names_in(server) == ["pfdm.example.org", "localhost", "127.0.0.1"]
    assert not certificates.is_authority(server)
    with pytest.raises(Exception, match="Issuer"):
        server.verify_directly_issued_by(read_certificate((site / "runtime-ca.crt").read_bytes()))


def test_scripts_are_valid_and_the_proxy_has_one_door(coordinator: Path, site: Path) -> None:
    for path in (*coordinator.glob("start-*"), *site.glob("start-*")):
        assert path.stat().st_mode & 0o777 == 0o755
        subprocess.run(["sh", "-n", str(path)], check=True)
    passed_on = re.findall(r"location (\S+) \{(.*?)\}", (coordinator / "nginx.conf").read_text(), re.S)
    assert [place for place, body in passed_on if "proxy_pass" in body] == ["/v1/fleet/"]


def test_site_settings_reach_flower_unchanged(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["site", "settings", str(site)]) == 0
    shell = capsys.readouterr().out + 'printf %s "$NODE_CONFIG"'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert parse_config_args([done.stdout]) == {
        "site-name": "hospital-1",
        "data-path": str(site.parent / "images é"),
        "state-dir": str(site / "state"),
        "witness": str(site / "witness" / "witness.json"),
        "policy": str(site / "policy.toml"),
    }
    assert Site.load(site).node.data_path == str(site.parent / "images é")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("site-name", '"a b"'), "site-name"),
        (("data-path", '""'), 'data-path = ""'),
        (("coordinator", '"nowhere"'), "must be HOST:PORT"),
        (("runtime-port", "99999"), "runtime-port 99999"),
        (("policy", '"relative.toml"'), "policy"),
        (("code-fingerprint", '"abc"'), "must be the 64 hexadecimal digits"),
    ],
)
def test_impossible_site_settings_are_named(
    site: Path, change: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = change
    path = site / "site.toml"
    path.write_text(re.sub(rf"^{key} = .*$", f"{key} = {value}", path.read_text(), flags=re.M))
    assert main(["site", "settings", str(site)]) == 2
    assert said in capsys.readouterr().err
    assert main(["doctor", str(site)]) == 1
    assert said in capsys.readouterr().out


def test_a_misspelt_pin_is_no_missing_pin(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (site / "site.toml").read_text()
    for wrong, said in (
        (text.replace("code-fingerprint", "code-fingerprnt"), "code.code-fingerprnt"),
        (text.replace("[code]", "[cod]"), "'code'"),
        (text.replace("[code]\n", ""), "'code'"),
    ):
        (site / "site.toml").write_text(wrong)
        assert main(["site", "settings", str(site)]) == 2
        assert said in capsys.readouterr().err


def test_the_doctor_compares_the_pin(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = code_fingerprint()
    text = (site / "site.toml").read_text()
    assert f'code-fingerprint = "{own}"' in text

    def doctor() -> str:
        capsys.readouterr()
        main(["doctor", str(site)])
        return next(line for line in capsys.readouterr().out.splitlines() if "code-fingerprint" in line)

    assert doctor().startswith("ok       code-fingerprint: Only the installed code runs here")
    (site / "site.toml").write_text(text.replace(own, "0" * 64))
    assert doctor().startswith("problem  code-fingerprint: 000")
    (site / "site.toml").write_text(text.replace(own, ""))
    assert doctor().startswith("note     code-fingerprint: The code that the coordinator ships runs here")
    assert "trusts whoever starts the run" in doctor()
    (site / "site.toml").write_text(text)
    script = (site / "start-clientapp").read_text()
    (site / "start-clientapp").write_text(script.replace("client_app.pinned_superexec", "true"))
    assert doctor() == "problem  code-fingerprint: start-clientapp does not check it"


def test_the_network_side_of_a_sealed_site(
    tmp_path: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, shared = tmp_path / "network", tmp_path / "shared"
    given = ["--coordinator", "localhost:1", "--ca", str(coordinator / "ca.crt"), "--sealed", str(shared)]
    assert main(["site", "init", str(root), *given, "--data", "/x"]) == 2
    assert "--data must not be given with --sealed" in capsys.readouterr().err
    assert main(["site", "init", str(root), *given, "--name", "north"]) == 0
    assert "nothing private" in capsys.readouterr().out
    assert not (root / "policy.toml").exists() and not (root / "state").exists()
    node = Site.load(root).node
    assert (node.outbox, node.inbox) == (str(shared / "outbox"), str(shared / "inbox"))
    assert node.sealed and node.site_name == "north" and not node.data_path


@pytest.mark.parametrize("name", ["ca.key", "server.pem", "coordinator.toml"])
def test_only_an_authority_is_accepted_as_one(
    name: str, tmp_path: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--coordinator", "localhost:1", "--ca", str(coordinator / name)]
    assert main(["site", "init", str(tmp_path / "s"), *given]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_only_a_public_key_is_admitted(
    coordinator: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("site.key", "is a private key"), ("policy.toml", "is not a public key")):
        assert main(["coordinator", "admit", str(site / name), "--name", "a", "--dir", str(coordinator)]) == 2
        assert said in capsys.readouterr().err
    assert main(["coordinator", "revoke", "nobody", "--dir", str(coordinator)]) == 2
    assert 'no site "nobody"' in capsys.readouterr().err


def test_the_doctor_says_what_to_mend(
    coordinator: Path, site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "site.key").chmod(0o644)
    (site / "policy.toml").write_text("epsilon = -1\n")
    capsys.readouterr()
    assert main(["doctor", str(site), "--fingerprint", "0" * 64]) == 1
    printed = capsys.readouterr().out
    for said in (
        f"chmod 600 {site / 'site.key'}",
        "the other side has 0000",
        "cannot be reached",
        "problem  policy",
        "does not exist",
        "5 to mend",
    ):
        assert said in printed
    monkeypatch.setattr(findings, "_FREE_GIB", 1e9)
    assert findings.disk(site).level == "problem"
    assert main(["doctor", str(site.parent)]) == 2


def test_the_doctor_reads_certificates_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = make_authority("a")
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem)

    def level(days: int, hosts: list[str], signer: certificates.Identity = authority) -> str:
        (tmp_path / "server.pem").write_bytes(make_server(signer, ["h"], days).certificate_pem)
        return findings.certificate(tmp_path, "server.pem", "ca.crt", hosts, "renew").level

    assert level(90, ["h"]) == "ok"
    assert level(10, ["h"]) == "note"
    assert level(0, ["h"]) == "problem"
    assert level(90, ["other"]) == "problem"
    assert level(90, ["h"], make_authority("a")) == "problem"
    monkeypatch.setattr(certificates, "_BACKDATED", datetime.timedelta(days=-1))
    assert level(90, ["h"]) == "problem"


def test_the_authority_signs_no_further_authority() -> None:
    basic = make_authority("a").certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value.path_length == 0
