"""The official package in the same environment is refused, with the cure."""

import pathlib
import subprocess
import sys

import ekuiper

PACKAGE = pathlib.Path(ekuiper.__file__).parent


def imported(folder):
    """Imports the package from `folder` alone, in a process of its own."""
    (folder / "ekuiper").symlink_to(PACKAGE)
    program = "import sys; sys.path.insert(0, sys.argv[1]); import ekuiper"
    return subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=60)


def test_alone_it_is_imported(tmp_path):
    (tmp_path / "ekuiper_rs-0.1.0.dist-info").mkdir()
    assert imported(tmp_path).returncode == 0


def test_beside_the_official_package_it_says_how_to_cure_that(tmp_path):
    (tmp_path / "ekuiper-2.4.2.dist-info").mkdir()
    done = imported(tmp_path)
    assert done.returncode == 1
    assert "run `pip uninstall ekuiper ekuiper-rs`, then `pip install` the one that is wanted" in done.stderr
