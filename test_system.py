"""Look at this computer: `python3 test_system.py` prints every check as ok, warning or failed, and what to do.

`--suite` sets up what the tests need and runs all of them, from a fresh clone too; what follows goes to pytest:
`python3 test_system.py --suite -k gallery`. Exit code: 0 fine, 1 something failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import setup
from backend.utils import print_any_text, python_of, works

ROOT = Path(__file__).resolve().parent
# Three processes on two cores: half of the tests wait most of their time. tests/conftest.py orders the files.
PYTEST = ("-m", "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: list[str]) -> int:
    print_any_text()
    parser = argparse.ArgumentParser(prog="test_system.py", description="Look at this computer; test the studio.")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.add_argument("--suite", action="store_true", help="set the tests up and run them; the rest goes to pytest")
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.suite:
        parser.error(f"{' '.join(rest)} is not known; use --json or --suite.")
    try:
        return run_suite(rest) if options.suite else diagnose(as_json=options.json)
    except setup.SetupFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def diagnose(*, as_json: bool) -> int:
    """Print the checks, in the studio's environment: another Python starts that one. 1 if one of them failed."""
    if not works(setup.ENVIRONMENT):
        raise setup.SetupFailed("There is no working environment here yet; `python3 setup.py` makes one.")
    if Path(sys.prefix).resolve() != setup.ENVIRONMENT.resolve():
        command = [str(python_of(setup.ENVIRONMENT)), str(ROOT / "test_system.py"), *(["--json"] if as_json else [])]
        return subprocess.run(command).returncode
    from backend.core.config import Settings
    from backend.doctor import print_checks, run_checks

    checks = run_checks(Settings.from_env())
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        print_checks(checks)
    return int(any(check.status == "failed" for check in checks))


def run_suite(pytest_arguments: list[str]) -> int:
    """Everything from nothing: environment, browser, clips, pytest. Its summary is the last line; returns its code."""
    setup.prepare(test_extras=True, quiet=True)
    environ = test_environ()
    browser = find_browser() or install_browser()
    if browser:
        environ["CHROMIUM"] = browser
    else:
        print("No Chromium is here and none could be installed: the browser tests will be skipped.", flush=True)
    run_python(["tests/fetch_media.py"], environ)  # says itself what it could not get
    return run_python([*PYTEST, *pytest_arguments], environ)


def test_environ() -> dict[str, str]:
    """The environment for the tests: without the user's own studio, which they must not touch. Each of those that run
    side by side keeps to one processor.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
    return own | {"OMP_NUM_THREADS": "1"}


def run_python(arguments: list[str], environ: dict[str, str]) -> int:
    return subprocess.run([str(python_of(setup.ENVIRONMENT)), *arguments], cwd=ROOT, env=environ).returncode


def find_browser() -> str | None:
    """The path of a Chromium that starts: $CHROMIUM, the system's, or Playwright's own."""
    named = [os.environ.get("CHROMIUM"), *map(shutil.which, SYSTEM_BROWSERS), playwright_browser()]
    return next((path for path in named if path and starts(path)), None)


def playwright_browser() -> str | None:
    """Where Playwright keeps its Chromium, downloaded or not."""
    code = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as playwright: print(playwright.chromium.executable_path)"
    )
    done = subprocess.run([str(python_of(setup.ENVIRONMENT)), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def starts(browser: str) -> bool:
    """Whether it runs at all: Ubuntu's `chromium-browser` may be a script that only asks for a snap."""
    try:
        return subprocess.run([browser, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_browser() -> str | None:
    """Install a Chromium: Debian's package where we may, else Playwright's. Its path, None if neither came."""
    playwright = [str(python_of(setup.ENVIRONMENT)), "-m", "playwright", "install", "chromium"]
    ways = [playwright]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        package = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        ways = [["apt-get", "update"], package, [*playwright, "--with-deps"]]
    for command in ways:
        print(f"Looking for a Chromium: {' '.join(command[-4:])}", flush=True)
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ)
        if done.returncode == 0 and (browser := find_browser()):
            return browser
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
