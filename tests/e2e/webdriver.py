"""A page in Firefox (WebDriver BiDi) or WebKitGTK (WebDriver): what is on it, and real input events.

WebDriver's own search does not enter shadow roots, so elements are found by role and name by a script that does.
Commands are those of w3c.github.io/webdriver and w3c.github.io/webdriver-bidi; both have the same input actions.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.studio import BROWSER_TIMEOUT_MS, free_port

WIDTH, HEIGHT = 1440, 960
BORDER = 38  # of WebKit's window, above the page
SCRIPT_S = 15.0  # for the answer of a script
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Shift": "\ue008",
    "Control": "\ue009",
    "Escape": "\ue00c",
    "End": "\ue010",
    "ArrowLeft": "\ue012",
    "ArrowRight": "\ue014",
}
PREFERENCES = 'user_pref("services.settings.server", "data:,none/v1");'  # it asks its maker for nothing
ABORTED = "NS_BINDING_ABORTED"  # the page itself gave the request up, as when a video is closed
# Streamlit asks for its server below the page's own path too, and takes a 404 for an answer.
SOUGHT = re.compile(r"/\w+/_stcore/(health|host-config)$")

FINDING = """
const all = root => [...root.querySelectorAll("*")].flatMap(e => e.shadowRoot ? [e, ...all(e.shadowRoot)] : [e]);
const ROLES = {A: "link", BUTTON: "button", TEXTAREA: "textbox", H1: "heading", H2: "heading", IMG: "img",
    DIALOG: "dialog", SECTION: "region", VIDEO: "video"};
const INPUTS = {checkbox: "checkbox", radio: "radio", range: "slider", file: "file", number: "spinbutton"};
const roleOf = e => e.getAttribute("role") ?? (e.tagName === "INPUT" ? INPUTS[e.type] ?? "textbox" : ROLES[e.tagName]);
const textOf = node => node.nodeType === Node.TEXT_NODE ? node.nodeValue
    : node.nodeType !== Node.ELEMENT_NODE || node.getAttribute("aria-hidden") === "true" ? ""
    : [...node.childNodes].map(textOf).join(" ");
const nameOf = e => (e.getAttribute("aria-label") ?? e.getAttribute("alt")
    ?? [...e.labels ?? []].map(textOf)[0] ?? textOf(e)).replace(/\\s+/g, " ").trim();
const isShown = e => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width > 0;
const find = (role, pattern) => all(document)
    .filter(e => roleOf(e) === role && new RegExp(pattern).test(nameOf(e)) && isShown(e));
const hit = (x, y, root = document) => {
    const found = root.elementFromPoint(x, y);
    return found?.shadowRoot && found.shadowRoot !== root ? hit(x, y, found.shadowRoot) : found;
};
const middle = e => {
    const {left, top, width, height} = e.getBoundingClientRect();
    const point = [Math.floor(left + width / 2), Math.floor(top + height / 2)];
    return e.contains(hit(...point)) ? point : null;
};
const active = (root = document) => root.activeElement?.shadowRoot ? active(root.activeElement.shadowRoot)
    : root.activeElement;
"""
# The middle of the one element that is meant, once a press there would go to it.
AIM = """(role, pattern) => {
    const [element, second] = find(role, pattern);
    if (!element || second || element.disabled) return null;
    for (const block of ["nearest", "center"]) {
        element.scrollIntoView({block, inline: "nearest", behavior: "instant"});
        const point = middle(element);
        if (point) return point;
    }
    return null;
}"""
# Errors, promises that nobody caught, refusals of the content security policy; once the document before is left.
LISTEN = """() => {
    if (window.isLeft || window.met) return !window.isLeft;
    const met = window.met = [];
    addEventListener("error", e => met.push(e.message ?? `not loaded: ${e.target.src ?? e.target.href}`), true);
    addEventListener("unhandledrejection", e => met.push(String(e.reason)));
    addEventListener("securitypolicyviolation", e => met.push(`refused ${e.blockedURI}`));
    const say = console.error;
    console.error = (...words) => { met.push(words.join(" ")); say(...words); };
    const ask = window.fetch;
    window.fetch = async (...given) => {
        const answer = await ask(...given);
        if (answer.status >= 400) met.push(`${answer.status} ${answer.url}`);
        return answer;
    };
    performance.setResourceTimingBufferSize(5000);
    return true;
}"""
# What was met, and the addresses of the requests.
MET = """() => {
    const asked = performance.getEntriesByType("resource").map(entry => entry.name);
    performance.clearResourceTimings();
    return [(window.met ?? []).splice(0), asked];
}"""


class DriverError(Exception):
    """What the browser answers instead of a result."""


class Tab:
    """What both browsers have; a subclass says how its browser is told."""

    def __init__(self) -> None:
        self.origin = ""  # of the studio
        self.programs: list[subprocess.Popen[bytes]] = []
        self.ends = contextlib.ExitStack()

    def start(self, folder: Path) -> None:
        """Start the browser, with a home and its logs in that folder."""
        raise NotImplementedError

    def run(self, source: str, *given: Any) -> Any:
        """Call a JavaScript function, which may use what FINDING defines, with JSON; its result is JSON."""
        raise NotImplementedError

    def go(self, url: str) -> None:
        raise NotImplementedError

    def back(self) -> None:
        raise NotImplementedError

    def reload(self) -> None:
        raise NotImplementedError

    def act(self, source: dict[str, Any]) -> None:
        """Perform the actions of one input source."""
        raise NotImplementedError

    def give(self, name: str, file: Path) -> None:
        """Choose a file in the file field of that name."""
        raise NotImplementedError

    def faults(self) -> list[str]:
        """Errors of the console, and requests that failed or went to another host, since the last call."""
        raise NotImplementedError

    def quit(self) -> None:
        self.ends.close()
        for program in reversed(self.programs):
            program.terminate()
            try:
                program.wait(timeout=20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def run_program(self, command: list[str], file: Path, **more: Any) -> None:
        """Start a program whose output goes into a file; `quit` ends it."""
        with file.open("wb") as log:
            self.programs.append(subprocess.Popen(command, stdout=log, stderr=log, **more))

    # --- in terms of those ---

    def until(self, source: str, *given: Any) -> Any:
        """The first result of a function that is not false; asked for again and again."""
        deadline = time.monotonic() + BROWSER_TIMEOUT_MS / 1000
        while True:
            answer: Any = None
            with contextlib.suppress(DriverError):  # a page that is left meanwhile
                if answer := self.run(source, *given):
                    return answer
            assert time.monotonic() < deadline, f"{source} {given}: {self.run('() => document.body.innerText')}"
            time.sleep(0.05)

    def see(self, role: str, name: str) -> None:
        self.until("(role, name) => find(role, name).length === 1", role, name)

    def miss(self, role: str, name: str) -> None:
        """Wait until it is gone."""
        self.until("(role, name) => !find(role, name).length", role, name)

    def read(self, text: str) -> None:
        """Wait until an element shows exactly this text."""
        self.until("text => all(document).some(e => textOf(e).trim() === text && isShown(e))", text)

    def press(self, role: str, name: str) -> None:
        """Click in the middle of an element, once it stands still and nothing covers it."""
        before = None
        while (point := self.until(AIM, role, name)) != before:
            before = point
        move = {"type": "pointerMove", "x": point[0], "y": point[1], "duration": 0}
        click = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self.act(mouse | {"actions": [move, *click]})

    def type(self, text: str) -> None:
        strokes = [(kind, letter) for letter in text for kind in ("keyDown", "keyUp")]
        self._keys(strokes)

    def keys(self, *names: str) -> None:
        """Press keys one after the other: `Tab`, `Control+Enter`."""
        for name in names:
            held = [KEYS.get(key, key) for key in name.split("+")]
            self._keys([("keyDown", key) for key in held] + [("keyUp", key) for key in reversed(held)])

    def _keys(self, strokes: list[tuple[str, str]]) -> None:
        actions = [{"type": kind, "value": value} for kind, value in strokes]
        self.act({"type": "key", "id": "keyboard", "actions": actions})

    def focused(self) -> list[str]:
        """Role and name of what has the focus."""
        found: list[str] = self.run("() => active() ? [roleOf(active()) ?? '', nameOf(active())] : ['', '']")
        return found

    def is_own(self, url: str) -> bool:
        own = (self.origin, self.origin.replace("http", "ws", 1), "data:", "blob:", "about:")
        return url.startswith(own)


class Firefox(Tab):
    """Firefox without a window, over WebDriver BiDi: needs no driver beside it."""

    @staticmethod
    def missing() -> str | None:
        return None if _firefox() else "no Firefox here (Debian's package firefox-esr)"

    def start(self, folder: Path) -> None:
        profile = folder / "profile"
        profile.mkdir()
        (profile / "user.js").write_text(PREFERENCES)
        command = [str(_firefox()), "--headless", "--remote-debugging-port", "0", "--profile", str(profile)]
        # As root it refuses a home that is another's.
        self.run_program(command, folder / "firefox.log", env=os.environ | {"HOME": str(folder)})
        told = profile / "WebDriverBiDiServer.json"
        address = json.loads(wait_for(lambda: told.exists() and told.read_text(), "Firefox does not listen."))
        url = f"ws://{address['ws_host']}:{address['ws_port']}/session"
        self.socket = self.ends.enter_context(connect(url, max_size=None))
        self.asked = 0
        self.found: list[str] = []
        self.command("session.new", capabilities={})
        # The window that it opens itself has not the focus, and then keys press no button.
        self.context = self.command("browsingContext.create", type="window")["context"]
        self.command("browsingContext.setViewport", context=self.context, viewport={"width": WIDTH, "height": HEIGHT})
        refused = "() => addEventListener('securitypolicyviolation', e => console.error('refused', e.blockedURI))"
        self.command("script.addPreloadScript", functionDeclaration=refused)
        network = ("network.beforeRequestSent", "network.fetchError", "network.responseCompleted")
        self.command("session.subscribe", events=["log.entryAdded", *network])

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=BROWSER_TIMEOUT_MS / 1000))).get("id") != self.asked:
            self._hear(message.get("method"), message.get("params"))
        if message["type"] == "error":
            raise DriverError(f"{method}: {message['error']}: {message['message']}")
        result: dict[str, Any] = message["result"]
        return result

    def _hear(self, event: str, params: dict[str, Any]) -> None:
        url = params.get("request", {}).get("url", "")
        if event == "log.entryAdded" and params["level"] == "error":
            self.found.append(f"{params['type']} {params['text']}")
        elif event == "network.beforeRequestSent" and not self.is_own(url):
            self.found.append(f"asked {url}")
        elif event == "network.fetchError" and params["errorText"] != ABORTED:
            self.found.append(f"{params['errorText']} {url}")
        elif event == "network.responseCompleted" and params["response"]["status"] >= 400 and not SOUGHT.search(url):
            self.found.append(f"{params['response']['status']} {url}")

    def _call(self, function: str, *arguments: dict[str, Any]) -> dict[str, Any]:
        answer = self.command(
            "script.callFunction",
            functionDeclaration=function,
            arguments=list(arguments),
            target={"context": self.context},
            awaitPromise=False,
        )
        if answer["type"] == "exception":
            raise DriverError(answer["exceptionDetails"]["text"])
        result: dict[str, Any] = answer["result"]
        return result

    def run(self, source: str, *given: Any) -> Any:
        function = f"given => {{ {FINDING} return JSON.stringify(({source})(...JSON.parse(given)) ?? null); }}"
        return json.loads(self._call(function, {"type": "string", "value": json.dumps(given)})["value"])

    def go(self, url: str) -> None:
        self.command("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def back(self) -> None:
        self.command("browsingContext.traverseHistory", context=self.context, delta=-1)

    def reload(self) -> None:
        self.command("browsingContext.reload", context=self.context, wait="complete")

    def act(self, source: dict[str, Any]) -> None:
        self.command("input.performActions", context=self.context, actions=[source])

    def give(self, name: str, file: Path) -> None:
        self.see("file", name)
        element = self._call(
            f"name => {{ {FINDING} return find('file', name)[0]; }}", {"type": "string", "value": name}
        )
        shared = {"sharedId": element["sharedId"]}
        self.command("input.setFiles", context=self.context, element=shared, files=[str(file)])

    def faults(self) -> list[str]:
        self.run("() => null")  # what happened before it is heard before its answer
        found, self.found = self.found, []
        return found

    def quit(self) -> None:
        with contextlib.suppress(Exception):
            self.command("browser.close")
        super().quit()


class WebKit(Tab):
    """WebKitGTK's small browser on a screen in memory, over WebDriver.

    A script cannot be put before those of a page, so LISTEN is run again and again until the page is there: before the
    page has read its own scripts.
    """

    @staticmethod
    def missing() -> str | None:
        for program, package in {"WebKitWebDriver": "webkit2gtk-driver", "Xvfb": "xvfb"}.items():
            if not shutil.which(program):
                return f"no {program} here (Debian's package {package})"
        return None

    def start(self, folder: Path) -> None:
        reading, writing = os.pipe()
        size = f"{WIDTH}x{HEIGHT + BORDER}x24"
        screen = ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp"]
        self.run_program(screen, folder / "screen.log", pass_fds=[writing])
        os.close(writing)
        with os.fdopen(reading) as told:
            number = told.readline().strip()
        port = free_port()
        own = {"HOME": str(folder), "DISPLAY": f":{number}", "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"}
        self.run_program(["WebKitWebDriver", f"--port={port}"], folder / "webkit.log", env=os.environ | own)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=BROWSER_TIMEOUT_MS / 1000)
        self.client = self.ends.enter_context(client)
        wait_for(self._answers, "WebKitWebDriver does not answer.")
        self.found: list[str] = []
        self.session = ""
        wanted = {"capabilities": {"alwaysMatch": {"pageLoadStrategy": "none"}}}
        self.session = f"/session/{self.command('POST', '/session', wanted)['sessionId']}"
        self.command("POST", "/window/rect", {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT + BORDER})

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/status").status_code == 200
        return False

    def command(self, method: str, path: str, body: Any = None) -> Any:
        if method == "POST" and body is None:
            body = {}
        # The answer of a script is lost with its document, so it is not waited for long.
        timeout_s = SCRIPT_S if path.startswith("/execute") else BROWSER_TIMEOUT_MS / 1000
        try:
            answer = self.client.request(method, f"{self.session}{path}", json=body, timeout=timeout_s)
        except httpx.TimeoutException:
            raise DriverError(f"{path}: no answer in {timeout_s:.0f} s") from None
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise DriverError(f"{path}: {value['error']}: {value['message']}")
        return value

    def run(self, source: str, *given: Any) -> Any:
        script = f"{FINDING} return JSON.stringify(({source})(...arguments) ?? null);"
        return json.loads(self.command("POST", "/execute/sync", {"script": script, "args": list(given)}))

    def go(self, url: str) -> None:
        self._leave("/url", {"url": url})

    def reload(self) -> None:
        self._leave("/refresh")

    def _leave(self, path: str, body: Any = None) -> None:
        self._keep_faults()
        self.run("() => { window.isLeft = true; }")
        self.command("POST", path, body)
        wait_for(lambda: self._listens(), f"{path} {body} does not lead to a page.", pause_s=0)

    def _listens(self) -> bool:
        with contextlib.suppress(DriverError):
            return bool(self.run(LISTEN))
        return False

    def back(self) -> None:
        self.command("POST", "/back")

    def act(self, source: dict[str, Any]) -> None:
        self.command("POST", "/actions", {"actions": [source]})

    def give(self, name: str, file: Path) -> None:
        self.see("file", name)
        script = f"{FINDING} return find('file', arguments[0])[0];"
        (element,) = self.command("POST", "/execute/sync", {"script": script, "args": [name]}).values()
        self.command("POST", f"/element/{element}/value", {"text": str(file)})

    def faults(self) -> list[str]:
        self._keep_faults()
        found, self.found = self.found, []
        return found

    def _keep_faults(self) -> None:
        """Note what this document has met, before it is left."""
        met, asked = self.run(MET)
        self.found += [
            *(one for one in met if not SOUGHT.search(one)),
            *(f"asked {url}" for url in asked if not self.is_own(url)),
        ]

    def quit(self) -> None:
        with contextlib.suppress(Exception):
            self.command("DELETE", "")
        super().quit()


def _firefox() -> str | None:
    return shutil.which("firefox-esr") or shutil.which("firefox")


def wait_for(ready: Callable[[], Any], late: str, pause_s: float = 0.05) -> Any:
    """The first answer of `ready` that is not false; `late` says what did not come."""
    deadline = time.monotonic() + BROWSER_TIMEOUT_MS / 1000
    while not (answer := ready()):
        assert time.monotonic() < deadline, late
        time.sleep(pause_s)
    return answer


BROWSERS: dict[str, type[Firefox] | type[WebKit]] = {"firefox": Firefox, "webkit": WebKit}


@contextlib.contextmanager
def opened(name: str, folder: Path) -> Iterator[Tab]:
    """A tab in that browser, which is ended at the end."""
    tab = BROWSERS[name]()
    try:
        tab.start(folder)
        yield tab
    finally:
        tab.quit()
