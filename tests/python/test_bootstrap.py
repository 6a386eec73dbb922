"""tools/bootstrap.sh on machines that lack something: it says what to do and touches nothing."""
import os
import subprocess

import pytest


@pytest.fixture
def bootstrap(project, tmp_path):
    """bootstrap(COMMAND=SCRIPT, ..., environment) runs it with these commands replaced, in a cache of its own."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def call(environment=None, **replaced):
        for name, script in replaced.items():
            path = commands / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}",
                       "WEIGHBRIDGE_CACHE": str(tmp_path / "cache"), **(environment or {})}
        return subprocess.run([project / "tools/bootstrap.sh"], env=environment, capture_output=True, text=True,
                              check=False, timeout=60)

    return call


def test_user_without_rights_is_shown_the_command_to_run(bootstrap):
    result = bootstrap(dpkg_query="exit 1", id="echo 1000", sudo="exit 1", apt_get="echo apt-get was called; exit 9")
    assert result.returncode == 2
    assert "hint: sudo apt-get install --no-install-recommends " in result.stderr
    assert " libcli11-dev " in result.stderr
    assert "apt-get was called" not in result.stdout + result.stderr


def test_only_missing_packages_are_named(bootstrap):
    installed = 'shift 3; for p in "$@"; do [ "$p" = mold ] || echo "installed $p"; done'
    result = bootstrap(dpkg_query=installed, id="echo 1000", sudo="exit 1")
    assert result.returncode == 2
    assert result.stderr.endswith("--no-install-recommends mold\n")


def test_failing_installation_shows_its_log_and_fails(bootstrap):
    result = bootstrap(dpkg_query="exit 1", id="echo 0", apt_get="echo E: no such mirror >&2; exit 100")
    assert result.returncode == 100
    assert "E: no such mirror" in result.stderr
    assert "FAILED (status 100)" in result.stdout


def test_given_folder_without_simdjson_is_refused(bootstrap, tmp_path):
    everything = 'shift 3; for p in "$@"; do echo "installed $p"; done'
    result = bootstrap({"WEIGHBRIDGE_SIMDJSON_DIR": str(tmp_path)}, dpkg_query=everything)
    assert result.returncode == 2
    assert str(tmp_path) in result.stderr
