"""Modules out of an archive, imported from memory: in an interpreter of its own each, because imports stay."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Mapping
from typing import Any

import pytest

CHILD = """
import json, sys, traceback
import trio                                   # as every process of a service has
from solo_trio.runtimes import zip_modules

data = sys.stdin.buffer.read()
try:
    names = zip_modules.load(data, "<service calc>")
    answer = names["answer"]()
except BaseException as error:
    answer = {"raised": type(error).__name__, "says": str(error), "traceback": traceback.format_exc()}
print(json.dumps(answer))
"""


def packed(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, textwrap.dedent(content) if isinstance(content, str) else content)
    return buffer.getvalue()


def answer(files: Mapping[str, str | bytes]) -> Any:
    """What `answer()` of the service in the archive returns, or what loading it raised."""
    command = [sys.executable, "-W", "error", "-c", CHILD]
    run = subprocess.run(command, input=packed(files), capture_output=True, timeout=60, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_packages_and_relative_imports() -> None:
    files = {
        "service.py": """
            from solo_trio import service
            import shop.prices, helper
            from shop import total as add_up
            from shop.deep.er import WHERE
            def answer():
                return [shop.prices.TEA, add_up(2), helper.me(), WHERE, service.export.__name__, __name__, shop.__path__]
        """,
        "helper.py": """
            def me():
                import service            # the entry is a module like any other, and loaded once
                return service is __import__("sys").modules["service"] and __file__
        """,
        "shop/__init__.py": "from .prices import TEA\ndef total(n): return n * TEA",
        "shop/prices.py": "TEA = 3",
        "shop/deep/er.py": "from ..prices import TEA\nfrom . import beside\nWHERE = [__package__, beside.X, TEA]",
        "shop/deep/beside.py": "X = 1",
    }
    assert answer(files) == [
        3,
        6,
        "<service calc>/helper.py",
        ["shop.deep", 1, 3],
        "export",
        "service",
        ["<service calc>/shop"],
    ]


def test_a_service_in_its_only_package() -> None:
    files = {
        "shop/__init__.py": "",
        "shop/service.py": "from . import prices\ndef answer(): return [__name__, prices.__name__]",
        "shop/prices.py": "",
    }
    assert answer(files) == ["shop.service", "shop.prices"]


def test_data_files() -> None:
    files = {
        "service.py": """
            import pkgutil, importlib.resources as resources, inspect, shop, data_of
            def answer():
                shops = resources.files("shop")
                tree = sorted(each.name for each in shops.iterdir())
                table = shops / "tables" / "prices.txt"
                missing = []
                for look in (lambda: pkgutil.get_data("shop", "no.txt"), lambda: (shops / "no.txt").read_text(),
                             lambda: shops.read_bytes(), lambda: list(table.iterdir()), lambda: table.open("w")):
                    try:
                        look()
                    except (OSError, ValueError) as error:
                        missing.append(type(error).__name__)
                with table.open("rb") as binary, table.open(encoding="utf-8") as text:
                    opened = binary.read() == text.read().encode()
                return [
                    pkgutil.get_data("shop", "tables/prices.txt").decode(), table.read_text(), opened, tree,
                    table.is_file(), shops.is_dir(), shops.joinpath("tables/prices.txt").name,
                    resources.files("shop.tables").joinpath("prices.txt").read_text(encoding="utf-8"),
                    sorted(each.name for each in pkgutil.iter_modules(shop.__path__)),
                    missing, inspect.getsource(data_of),
                ]
        """,
        "data_of.py": "VALUE = 1\n",
        "shop/__init__.py": "",
        "shop/one.py": "",
        "shop/sub/x.py": "",
        "shop/tables/prices.txt": "tea 3.5 \u20ac".encode(),
    }
    assert answer(files) == [
        "tea 3.5 \u20ac",
        "tea 3.5 \u20ac",
        True,
        ["__init__.py", "one.py", "sub", "tables"],
        True,
        True,
        "prices.txt",
        "tea 3.5 \u20ac",
        ["one", "sub", "tables"],
        ["FileNotFoundError", "FileNotFoundError", "IsADirectoryError", "NotADirectoryError", "ValueError"],
        "VALUE = 1\n",
    ]


def test_a_traceback_shows_the_lines() -> None:
    files = {
        "service.py": "import shop\ndef answer():\n    return shop.fail(1)  # this line\n",
        "shop.py": "def fail(n):\n    raise RuntimeError('no')  # that line\n",
    }
    found = answer(files)
    assert found["raised"] == "RuntimeError"
    assert (
        'File "<service calc>/service.py", line 3, in answer\n    return shop.fail(1)  # this line'
        in found["traceback"]
    )
    assert 'File "<service calc>/shop.py", line 2, in fail\n    raise RuntimeError(' in found["traceback"]


def test_what_does_not_compile_or_decode_names_its_file() -> None:
    found = answer({"service.py": "import broken", "broken.py": "x = = 1\n"})
    assert found["raised"] == "SyntaxError" and "<service calc>/broken.py" in found["traceback"]
    assert (
        answer(
            {
                "service.py": "import odd\ndef answer(): return odd.X",
                "odd.py": "# coding: latin-1\nX = 'ä'".encode("latin-1"),
            }
        )
        == "ä"
    )
    assert answer({"service.py": "import missing"})["says"] == "No module named 'missing'"
    assert answer({"service.py": b"X = '\xff'"})["raised"] in ("SyntaxError", "UnicodeDecodeError")


@pytest.mark.parametrize(
    "path", ["trio.py", "trio/testing.py", "json.py", "attr/__init__.py", "solo_trio/x.py", "html.py"]
)
def test_nothing_stands_in_for_what_the_host_uses(path: str) -> None:
    """Neither for what it has imported nor for what Python brings and it may still import."""
    found = answer({"service.py": "def answer(): return 1", path: ""})
    assert found["raised"] == "ImportError" and path.split("/")[0].removesuffix(".py") in found["says"]


def test_data_at_the_top_is_no_module() -> None:
    files = {
        "service.py": """
            import html, pkgutil
            def answer():
                try:
                    import templates
                except ImportError as error:
                    return [html.escape("<"), str(error), pkgutil.get_data("service", "html/page.html").decode()]
        """,
        "html/page.html": "<p>",
        "templates/x.txt": "",
        "__main__.py": "raise SystemExit('only for trying it out')",
    }
    assert answer(files) == ["&lt;", "No module named 'templates'", "<p>"]


def test_its_modules_come_before_other_installed_ones() -> None:
    """What a service brings itself counts before what happens to be installed beside Solo."""
    assert answer({"service.py": "import click\ndef answer(): return click.OWN", "click.py": "OWN = 1"}) == 1


def test_no_file_is_written_and_none_is_read() -> None:
    files = {
        "service.py": """
            import sys
            opened = []
            sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
            import shop.deep.er
            def answer():
                return [each for each in opened if "calc" in each or "shop" in each]
        """,
        "shop/deep/er.py": "",
    }
    assert answer(files) == []


def test_an_archive_that_is_none() -> None:
    command = [sys.executable, "-c", CHILD]
    run = subprocess.run(command, input=b"PK no", capture_output=True, timeout=60, check=True)
    assert "no zip archive" in json.loads(run.stdout)["says"]
