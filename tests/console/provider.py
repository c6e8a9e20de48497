#!/usr/bin/env python3
"""Operators who sign in at a third-party OpenID provider (npm `oidc-provider`, on its own pages), in a real browser.

    tests/console/provider.py               everything; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/console/provider.py --only link   only cases whose name contains "link"

The provider is another site than the console (`localhost` and 127.0.0.1), so that cookies are sent or left out as between
two sites. Needs what drive.py needs.
"""

import argparse
import json
import pathlib
import re
import secrets
import sys
import tempfile
import urllib.parse

from playwright.sync_api import expect, sync_playwright

from browser import Browser, chromium
from scene import Arbiter, node_packages, tried

# Found through `scene`, which adds the folder of the clients' tests.
from conformance import free_port  # noqa: E402
from idp import Provider  # noqa: E402

CLIENT = "arbiter-console"
PEOPLE = {"alice": ["staff", "arbiter-ops"], "mallory": ["staff"]}


class Stage:
    def __init__(self, browsers, gateway, provider):
        self.chromium, self.gateway, self.provider = browsers, gateway, provider

    def browser(self):
        visitor = Browser(self.chromium, self.gateway.admin_url, elsewhere=self.provider.issuer)
        # The provider's pages want fonts of the internet's.
        visitor.context.route(lambda url: not url.startswith((visitor.origin, self.provider.issuer)), lambda route: route.abort())
        return visitor

    def opens_a_session(self):
        agent = self.gateway.register_agent(owner="team:payments")
        return self.gateway.open_session(agent["agent_id"], authorized_tools=["query_transactions"])

    def records(self):
        return [json.loads(line) for line in self.gateway.audit_path.read_text().splitlines()]


def at_the_provider(visitor, name, held_up=None):
    """Follows the link to the provider and signs in there; the last click leads back, unless it is held up."""
    page = visitor.page
    page.get_by_role("link", name="Sign in with corporate").click()
    page.get_by_placeholder("Enter any login").fill(name)
    page.get_by_placeholder("and password").fill("anything")
    page.get_by_role("button", name="Sign-in").click()
    last = page.get_by_role("button", name="Continue")
    expect(last).to_be_visible()
    if held_up:
        held_up()
    last.click()


def is_a_stranger(visitor):
    visitor.go("/console")
    expect(visitor.page).to_have_title(re.compile("^Sign in"))


def signing_in(stage):
    """The way there and back ends on the page that was asked for; what is done there is on record as this person's."""
    session = stage.opens_a_session()
    with stage.browser() as visitor:
        page = visitor.page
        visitor.go("/console/sessions")
        page.get_by_role("link", name="Sign in with corporate").click()
        there = page.url
        lax = [one for one in visitor.context.cookies(visitor.origin) if one["sameSite"] == "Lax"]
        assert len(lax) == 1 and lax[0]["httpOnly"], lax
        assert there.startswith(stage.provider.issuer), there
        visitor.go("/console/sessions")
        at_the_provider(visitor, "alice")
        expect(page).to_have_url(f"{visitor.origin}/console/sessions")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sessions")
        expect(page.locator("body")).to_contain_text("corporate:alice")
        cookies = visitor.context.cookies(visitor.origin)
        assert [(one["httpOnly"], one["sameSite"]) for one in cookies] == [(True, "Strict")], cookies
        visitor.go(f"/console/sessions/{session['session_id']}")
        page.get_by_role("button", name="Close the session").click()
        expect(page.get_by_role("status").first).to_contain_text("closed")
        closed = [one for one in stage.records() if one.get("task_session_id") == session["session_id"]]
        assert closed[-1]["principal"] == "corporate:alice", closed
        # An operator is no approver: neither shown nor done.
        assert page.get_by_role("button", name="Approve").count() == 0
        page.get_by_role("button", name="Sign out").click()
        is_a_stranger(visitor)


def nobody_without_a_role(stage):
    """Somebody whom the provider knows and whose groups have no role here stays out."""
    with stage.browser() as visitor:
        visitor.go("/console")
        at_the_provider(visitor, "mallory")
        expect(visitor.page.get_by_role("alert")).to_be_visible()
        is_a_stranger(visitor)


def a_refusal_at_the_provider(stage):
    """A person who turns back at the provider is told so."""
    with stage.browser() as visitor:
        page = visitor.page
        visitor.go("/console")
        page.get_by_role("link", name="Sign in with corporate").click()
        page.get_by_role("link", name="Cancel").click()
        expect(page.get_by_role("alert")).to_contain_text("did not sign you in")
        is_a_stranger(visitor)


def a_way_back_of_somebody_else(stage):
    """The address that leads back signs in the browser that was sent away, once, and no other."""
    with stage.browser() as visitor, stage.browser() as victim:
        page, caught = visitor.page, []

        def catch(route):
            onward = route.fetch(max_redirects=0).headers["location"]
            back = visitor.context.request.get(urllib.parse.urljoin(stage.provider.issuer, onward), max_redirects=0)
            caught.append(back.headers["location"])
            route.fulfill(body="held up", content_type="text/plain")

        visitor.go("/console/live")
        at_the_provider(visitor, "alice", lambda: page.route("**/interaction/**", catch))
        expect(page.locator("body")).to_contain_text("held up")
        [address] = caught
        assert address.startswith(f"{visitor.origin}/console/sign-in/return?"), address
        place = address.removeprefix(visitor.origin)
        victim.go(place)
        expect(victim.page.get_by_role("alert")).to_contain_text("not begun in this browser")
        is_a_stranger(victim)
        page.goto(address)
        expect(page.get_by_role("heading", level=1)).to_have_text("Live")
        visitor.go(place)
        expect(page.get_by_role("alert")).to_contain_text("not begun in this browser")


def a_link_from_another_site(stage):
    """A link in a chat opens the page for whoever has signed in, and the way in for whoever has not: after one more try."""
    session = stage.opens_a_session()
    place = f"/console/sessions/{session['session_id']}"
    with stage.browser() as visitor:
        page, asked = visitor.page, []
        page.on("request", lambda request: asked.append(request.url) if request.url.endswith(place) else None)
        chat = f"{stage.provider.issuer}/chat"
        link = f'<!doctype html><title>chat</title><a href="{visitor.origin}{place}">have a look</a>'
        visitor.context.route(chat, lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto(chat)
        page.get_by_role("link", name="have a look").click()
        expect(page).to_have_title(re.compile("^Sign in"))
        at_the_provider(visitor, "alice")
        expect(page).to_have_url(visitor.origin + place)
        asked.clear()
        page.goto(chat)
        page.get_by_role("link", name="have a look").click()
        expect(page.locator("main")).to_contain_text("manage everything in a test")
        assert asked == [visitor.origin + place] * 2, asked


CASES = [
    signing_in,
    nobody_without_a_role,
    a_refusal_at_the_provider,
    a_way_back_of_somebody_else,
    a_link_from_another_site,
]


def settings(provider, port):
    issuer = {"name": "corporate", "issuer_url": provider.issuer, "audiences": ["agents"]}
    oidc = {"issuer": "corporate", "audiences": ["arbiter-admin"], "client_id": CLIENT}
    return {
        "admin": {"listen_port": port},
        "admin.oidc": {**oidc, "client_secret": provider.directory["web_clients"][CLIENT]["secret"]},
        "admin.oidc.roles": {"arbiter-ops": "operator"},
        "oauth.issuers": [issuer],
    }


def main():
    parser = argparse.ArgumentParser(description="operators who sign in at an OpenID provider")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    packages, port = {"node": node_packages()}, free_port()
    back = f"http://127.0.0.1:{port}/console/sign-in/return"
    website = {CLIENT: {"secret": secrets.token_hex(16), "redirect_uri": back}}
    with tempfile.TemporaryDirectory() as folder:
        provider = Provider(packages, pathlib.Path(folder), host="localhost", people=PEOPLE, web_clients=website)
        try:
            with Arbiter("http://127.0.0.1:9/mcp", settings=settings(provider, port)) as gateway, sync_playwright() as playwright:
                stage = Stage(chromium(playwright), gateway, provider)
                failed = tried(CASES, options.only, stage)
                stage.chromium.close()
                if failed:
                    print(gateway.log(), provider.log_path.read_text()[-2000:], file=sys.stderr)
        finally:
            provider.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
