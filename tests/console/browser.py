"""Chromium for the console's tests: every page is watched while it is driven.

A browser here fails the test when a script of an agent runs, a dialog opens, the page's policy had to stop something,
anything foreign is asked for, or an answer under /console lacks the policy.
"""

import contextlib
import pathlib
import shutil
import urllib.parse

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
GUARDS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# What hides, reorders or controls: none of it may reach a page as it is.
ODD = "\u001b\u0000\u202e\u2066\u200b\u200d\ufeff"
WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  (window.stopped ??= []).push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
});
"""
SERIOUS = {"serious", "critical"}


def chromium(playwright):
    """Starts the system's Chromium, without a window."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("`chromium` is missing; tests/run installs it")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--force-color-profile=srgb"])


class Browser:
    """One person's browser at one console, and at another site if `elsewhere` names one."""

    def __init__(self, chromium, origin, elsewhere="data:", **context):
        self.origin, self.elsewhere, self.trouble, self.answers = origin, elsewhere, [], 0
        self.scripted = context.get("java_script_enabled", True)
        self.context = chromium.new_context(viewport={"width": 1280, "height": 900}, **context)
        self.context.set_default_timeout(10_000)
        self.context.add_init_script(WATCH)
        self.context.on("request", self._asked)
        self.context.on("response", self._answered)
        self.page = self.context.new_page()
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.trouble.append(f"script error: {error}"))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.check()
        self.context.close()

    def _asked(self, request):
        if request.frame.url.startswith(self.elsewhere) and not request.is_navigation_request():
            return
        if not request.url.startswith((self.origin + "/console", "data:", self.elsewhere)):
            self.trouble.append(f"asked for {request.url}")

    def _answered(self, response):
        if not response.url.startswith(self.origin):
            return
        self.answers += 1
        for name, wanted in GUARDS.items():
            found = response.headers.get(name)
            if found != wanted:
                self.trouble.append(f"{response.url}: {name} is {found!r}")

    def _dialog(self, dialog):
        self.trouble.append(f"a dialog opened: {dialog.message}")
        dialog.dismiss()

    def check(self):
        """Fails on whatever happened on the pages since the start."""
        self.inspect()
        if self.trouble:
            raise AssertionError("\n".join(self.trouble[:10]))
        assert self.answers > 0, "no page was answered"

    def inspect(self):
        """Looks at the page as it is: nothing was stopped, nothing of an agent became an element or hides."""
        if not self.scripted or not self.page.url.startswith(self.origin):
            return
        self.trouble += [f"{self.page.url}: stopped {one}" for one in self.page.evaluate("window.stopped ?? []")]
        if self.page.evaluate("'ran' in window"):
            self.trouble.append(f"{self.page.url}: an agent's script ran")
        foreign = self.page.evaluate(
            """() => [...document.querySelectorAll("script, img, iframe, object, embed, base, style, link")]
                .map((one) => one.getAttribute("src") ?? one.getAttribute("href") ?? one.outerHTML.slice(0, 80))
                .filter((from) => !from.startsWith("/console/files/"))"""
        )
        self.trouble += [f"{self.page.url}: element from {one}" for one in foreign]
        handlers = self.page.evaluate(
            """() => [...document.querySelectorAll("*")].flatMap((one) => [...one.attributes])
                .filter(({ name, value }) => name.startsWith("on") || value.trim().toLowerCase().startsWith("javascript:"))
                .map(({ name, value }) => `${name}=${value}`)"""
        )
        self.trouble += [f"{self.page.url}: handler {one}" for one in handlers]
        text = self.page.evaluate(
            """() => document.documentElement.textContent + [...document.querySelectorAll("*")]
                .flatMap((one) => [...one.attributes]).map(({ value }) => value).join("")"""
        )
        self.trouble += [f"{self.page.url}: U+{ord(odd):04X} reached the page" for odd in ODD if odd in text]

    def go(self, path):
        """Opens a page; the page before it is inspected first."""
        self.inspect()
        return self.page.goto(self.origin + path)

    def sign_in(self, key, place="/console"):
        self.go(f"/console/sign-in?{urllib.parse.urlencode({'next': place})}")
        self.page.get_by_label("Admin key").fill(key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(self.origin + place)

    def axe(self, source):
        """Returns what axe-core finds on the page, as (impact, text)."""
        self.page.evaluate(source)
        found = self.page.evaluate("async () => (await axe.run(document)).violations")
        return [
            (one["impact"], f"{self.page.url}: {one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}") for one in found
        ]

    def shoot(self, path: pathlib.Path):
        """Takes a picture of the whole page, which must not be wider than the window."""
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        if wide > window:
            self.trouble.append(f"{self.page.url}: {wide} px wide in a window of {window}")
        self.page.screenshot(path=path, full_page=True)

    @contextlib.contextmanager
    def looks(self, width, scheme):
        """Has pages shown at a width, in light or dark."""
        before = self.page.viewport_size
        self.page.set_viewport_size({"width": width, "height": 844 if width < 600 else 900})
        self.page.emulate_media(color_scheme=scheme)
        yield
        self.page.set_viewport_size(before)
        self.page.emulate_media(color_scheme="light")
