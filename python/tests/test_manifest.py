"""The manifest that a plugin writes, which names the script no matter who calls."""

import json
import subprocess
import sys

import pytest

from ekuiper import Plugin

SYMBOLS = """
from ekuiper import Plugin

class Named(Plugin):
    def __init__(self):
        super().__init__("snake")

app = %s

@app.function
def revert(text: str) -> str:
    return text[::-1]
"""
SCRIPT = SYMBOLS + """
if __name__ == "__main__":
    import sys
    app.manifest() if sys.argv[1:] == ["manifest"] else app.run()
"""


@pytest.fixture(params=['Plugin("snake")', "Named()"])
def folders(request, tmp_path):
    """A plugin's folder, and the folder in which Python is started."""
    folder, elsewhere = tmp_path / "plugin", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "pysam.py").write_text(SCRIPT % request.param)
    (folder / "symbols.py").write_text(SYMBOLS % request.param)
    return folder, elsewhere


def python(elsewhere, *arguments, **more):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=elsewhere, capture_output=True, text=True, **more)


IMPORTED = "import sys; sys.path.append(%r); from pysam import app; app.manifest()"


@pytest.mark.parametrize("how", ["script", "module", "command", "session", "test"])
def test_it_is_written_beside_the_script_and_names_it(how, folders):
    folder, elsewhere = folders
    if how == "script":
        ran = python(elsewhere, folder / "pysam.py", "manifest")
    elif how == "module":
        ran = python(folder, "-m", "pysam", "manifest")
    elif how == "command":
        ran = python(elsewhere, "-c", IMPORTED % str(folder))
    elif how == "session":
        ran = python(elsewhere, "-i", "-q", input=IMPORTED % str(folder) + "\n")
    else:
        (elsewhere / "test_it.py").write_text("def test_it():\n    " + IMPORTED % str(folder) + "\n")
        ran = python(elsewhere, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    manifest = json.loads((folder / "snake.json").read_text())
    assert manifest["executable"] == "pysam.py" and manifest["functions"] == ["revert"]
    assert not list(elsewhere.glob("*.json"))


def test_a_module_that_no_engine_can_run_asks_for_the_script(folders):
    folder, elsewhere = folders
    (folder / "main.py").write_text("from symbols import app\napp.run()\n")
    start = "import sys; sys.path.append(%r); from symbols import app; " % str(folder)
    ran = python(elsewhere, "-c", start + "app.manifest()")
    assert ran.stderr.splitlines()[-1] == (
        "RuntimeError: plugin snake is created in %s, so the script for the engine to run is unknown: "
        'name it, as in manifest(executable="snake.py")' % (folder / "symbols.py")
    )
    ran = python(elsewhere, "-c", start + "app.manifest(executable='mian.py')")
    assert ran.stderr.splitlines()[-1].startswith("FileNotFoundError: there is no mian.py in %s" % folder)
    assert not list(folder.glob("*.json")) and not list(elsewhere.glob("*.json"))
    ran = python(elsewhere, "-c", start + "app.manifest(executable='main.py')")
    assert ran.returncode == 0, ran.stderr
    assert json.loads((folder / "snake.json").read_text())["executable"] == "main.py"


def test_a_session_asks_for_all_of_it(tmp_path):
    start = "from ekuiper import Plugin; app = Plugin('snake'); "
    ran = python(tmp_path, "-c", start + "app.manifest()")
    assert ran.stderr.splitlines()[-1].endswith('as in manifest(executable="snake.py", path="snake.json")'), ran.stderr
    ran = python(tmp_path, "-c", start + "app.manifest(executable='main.py')")
    assert "RuntimeError: plugin snake is created in no file: name the manifest" in ran.stderr
    assert not list(tmp_path.iterdir())
    ran = python(tmp_path, "-c", start + "app.manifest(executable='snake.py', path='snake.json')")
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "snake.json").read_text())["executable"] == "snake.py"


def test_where_it_is_written_can_be_said(tmp_path):
    app = Plugin("snake")
    manifest = app.manifest(tmp_path / "other.json", executable="bin/snake.py", version="v2.0.0")
    assert json.loads((tmp_path / "other.json").read_text()) == manifest
    assert manifest["executable"] == "bin/snake.py" and manifest["version"] == "v2.0.0"
