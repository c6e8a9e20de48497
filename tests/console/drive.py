#!/usr/bin/env python3
"""The console in a real browser: what operators do on the pages, and what agents may not do to them.

    tests/console/drive.py                 everything; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/console/drive.py --only hostile  only cases whose name contains "hostile"

Pictures of each page at 1280 and 390 px, light and dark, are left in target/console. Needs Chromium (`chromium`), Playwright
from tests/requirements.txt, node and npm; what is missing is a failure, never a skip.
"""

import argparse
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from playwright.sync_api import expect, sync_playwright

from browser import SERIOUS, Browser, chromium
from scene import HOSTILE, POLICIES, TARGET, Arbiter, Later, Scene, axe, binary, node_packages, stop, tried, upstream

PICTURES = TARGET / "console"
# A refusal is on the page after this long; so is a call that waits for a person.
LIVE_SECONDS = 1.0


def seconds(since):
    return time.monotonic() - since


def row(page, text):
    return page.locator("tbody tr", has_text=text)


def signing_in(stage):
    """A wrong key says so, the right one leads to the page that was asked for, and no script can read the cookie."""
    with stage.browser() as visitor:
        page = visitor.page
        visitor.go("/console/sessions")
        expect(page).to_have_title(re.compile("^Sign in"))
        page.get_by_label("Admin key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not a right one")
        page.get_by_label("Admin key").fill(stage.gateway.api_key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sessions")
        cookies = visitor.context.cookies()
        assert [(one["httpOnly"], one["sameSite"]) for one in cookies] == [(True, "Strict")], cookies
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_title(re.compile("^Sign in"))
        visitor.go("/console")
        expect(page).to_have_title(re.compile("^Sign in"))


def keyboard_alone(stage):
    """The first stop is the way past the navigation, and each stop can be seen."""
    with stage.browser() as visitor:
        visitor.sign_in(stage.gateway.api_key, "/console/live")
        page = visitor.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "agent", "the first field of the filter"
        for _ in range(40):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or page.evaluate("document.activeElement === document.body"), page.evaluate(
                "document.activeElement.outerHTML"
            )
            page.keyboard.press("Tab")


def live_refusals(stage):
    """A refusal is on the live page within a second; a pause holds the rows back; a click explains one."""
    with stage.operator("/console/live") as visitor:
        page, scene = visitor.page, stage.scene
        expect(page.get_by_role("status")).to_contain_text("Live")
        sent = time.monotonic()
        request_id = scene.refused("ToolNotAuthorized", "live_probe_1")
        row(page, "live_probe_1").wait_for(timeout=5_000)
        took = seconds(sent)
        assert took < LIVE_SECONDS, f"{took:.2f} s"
        stage.say(f"a refusal was on the page after {took * 1000:.0f} ms")
        page.get_by_role("button", name="Pause").click()
        scene.refused("ToolNotAuthorized", "live_probe_2")
        page.wait_for_timeout(800)
        assert row(page, "live_probe_2").count() == 0
        page.get_by_role("button", name="Go on").click()
        row(page, "live_probe_2").wait_for(timeout=2_000)

        page.get_by_label("Code").fill("PolicyDenied")
        page.get_by_role("button", name="Filter").click()
        expect(page).to_have_url(re.compile("code=PolicyDenied"))
        scene.refused("ToolNotAuthorized", "live_probe_3")
        scene.refused("PolicyDenied", "wipe_disk", {"disk": "sdb"})
        row(page, "wipe_disk").first.wait_for()
        assert row(page, "live_probe_").count() == 0, "the filter holds for what comes later"

        visitor.go("/console/live")
        row(page, "live_probe_1").get_by_role("link").first.click()
        expect(page).to_have_url(f"{visitor.origin}/console/why/{request_id}")
        expect(page.locator("main")).to_contain_text("ToolNotAuthorized")


def approving(stage):
    """A waiting TypeScript client gets its result after a click; a call that is denied stays refused."""
    with stage.operator("/console/approvals") as visitor:
        page, scene = visitor.page, stage.scene
        arguments = {"account": "7", "older_than_days": 365}
        client = scene.typescript(stage.packages, "delete_transactions", arguments)
        try:
            row(page, "delete_transactions").get_by_role("link").first.click(timeout=20_000)
            main = page.locator("main")
            expect(main.locator("pre")).to_contain_text('"older_than_days": 365')
            expect(main).to_contain_text("manage and clean up the transactions of account 7")
            expect(main).to_contain_text("ask-before-deleting")
            assert client.poll() is None, "the client waits"
            page.get_by_label("Reason").fill("asked the account's owner")
            page.get_by_role("button", name="Approve").click()
            expect(page.get_by_role("status").first).to_contain_text("Approved")
            told, complaints = client.communicate(timeout=20)
        finally:
            stop(client)
        assert client.returncode == 0 and "delete_transactions: 3 rows" in told, complaints
        assert scene.reached_upstream("delete_transactions", '"older_than_days": 365') == 1
        page.reload()
        expect(main).to_contain_text("used")
        expect(main).to_contain_text("asked the account's owner")

        waiting = Later(lambda: scene.call("delete_transactions", {"account": "all"}))
        visitor.go("/console")
        asked = time.monotonic()
        second = Later(lambda: scene.call("delete_transactions", {"account": "second"}))
        expect(page.locator("nav .count")).to_have_text(re.compile("^2"), timeout=5_000)
        assert seconds(asked) < LIVE_SECONDS, f"{seconds(asked):.2f} s"
        stage.say(f"a waiting call was on the overview after {seconds(asked) * 1000:.0f} ms")
        for call, argument in ((waiting, '"all"'), (second, '"second"')):
            visitor.go("/console/approvals")
            for link in [one.get_attribute("href") for one in page.locator("tbody tr td:first-child a").all()]:
                visitor.go(link)
                if argument in page.locator("main pre").inner_text():
                    break
            else:
                raise AssertionError(f"no approval of {argument} waits")
            page.get_by_label("Reason").fill("not today")
            page.get_by_role("button", name="Deny").click()
            expect(page.get_by_role("status").first).to_contain_text("Denied")
            status, answer, _ = call.result()
            assert (status, answer["error"]["data"]["code"]) == (403, "ApprovalDenied"), answer
            assert scene.reached_upstream("delete_transactions", argument) == 0


def finding_a_request(stage):
    """A request is found by its id, with its record and what would have to differ."""
    request_id = stage.scene.refused("PolicyDenied", "wipe_disk", {"disk": "sdc"})
    with stage.operator("/console/why") as visitor:
        page = visitor.page
        page.get_by_label("Request id").fill(request_id)
        page.keyboard.press("Enter")
        main = page.locator("main")
        expect(main).to_contain_text("never-wipe")
        expect(main).to_contain_text("What would have to differ")
        expect(main.locator("pre").first).to_contain_text('"disk": "sdc"')
        visitor.go("/console/audit")
        page.get_by_label("Request").fill(request_id)
        page.get_by_role("button", name="Search").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Verify").click()
        expect(page.locator("#verification")).to_contain_text("intact", timeout=10_000)


def without_scripts(stage):
    """A browser that runs no script signs in, closes a session, and takes an agent away with what is below it."""
    scene = stage.scene
    with stage.browser(java_script_enabled=False) as visitor:
        visitor.sign_in(stage.gateway.api_key, "/console/sessions")
        page = visitor.page
        row(page, "read transactions at night").get_by_role("link").first.click()
        page.get_by_role("button", name="Close the session").click()
        expect(page.get_by_role("status").first).to_contain_text("closed")
        scene.refused("SessionClosed", "query_transactions", agent=scene.delegate, session=scene.night)

        parent = stage.gateway.register_agent(owner="team:falls", capabilities=["read"])
        child = stage.gateway.register_agent(owner="team:falls-too")
        order = {"to": child["agent_id"], "scopes": ["read"]}
        stage.gateway.admin("POST", f"/agents/{parent['agent_id']}/delegate", order, 201)
        sessions = [(one, scene.opens(one)) for one in (parent, child)]
        visitor.go(f"/console/agents/{parent['agent_id']}")
        main = page.locator("main")
        expect(main).to_contain_text("1 agent below it and 2 active sessions")
        expect(main.locator(".tree")).to_contain_text("team:falls-too")
        page.get_by_label("Deactivate").check()
        page.get_by_role("button", name="Deactivate").click()
        expect(page.get_by_role("status").first).to_contain_text("deactivated")
        for agent, session in sessions:
            assert scene.call("query_transactions", agent=agent, session=session)[0] in (401, 403)
        visitor.go(f"/console/agents/{child['agent_id']}")
        expect(main).to_contain_text("inactive")


def hostile(stage):
    """Nothing that an agent says runs, becomes an element, or hides: on any page, as it comes or after a reload."""
    scene, gateway = stage.scene, stage.gateway
    texts = [*HOSTILE.values()]
    agents = [gateway.register_agent(owner=text[:200], model=text[:100]) for text in texts if printable(text)]
    sessions = [scene.opens(scene.agent, declared_intent="manage " + text[:900]) for text in texts if printable(text)]
    asked = []
    with stage.operator("/console/live") as visitor:
        page = visitor.page
        for text in texts:
            scene.hostile(text)
            asked.append(Later(lambda text=text: scene.call("delete_transactions", {"text": text, text[:100]: 1})))
        page.wait_for_timeout(600)
        expect(page.locator("#rows")).to_contain_text("<img src=x")
        visitor.inspect()
        ids = [scene.call("query_transactions", {"text": text, text[:100]: 1})[2] for text in texts]
        pages = [f"/console/{place}" for place in ("", "live", "approvals", "sessions", "agents", "audit", "policies")]
        pages += [f"/console/agents/{one['agent_id']}" for one in agents]
        pages += [f"/console/sessions/{one['session_id']}" for one in sessions]
        pages += [f"/console/approvals/{one['approval_id']}" for one in scene.pending()]
        pages += [f"/console/why/{one}" for one in ids]
        for one in pages:
            assert visitor.go(one).status == 200, one
            page.wait_for_load_state("load")
        text = page.locator("main").inner_text()
        assert "clipped" in text or "truncated" in text, "100 KB is shown as cut off"
        visitor.inspect()
        for one in scene.pending():
            gateway.admin("POST", f"/approvals/{one['approval_id']}", {"decision": "deny"}, 200)
    for call in asked:
        call.result()
    for one in sessions:
        gateway.admin("DELETE", f"/sessions/{one['session_id']}", expect=200)
    stage.say(f"{len(texts)} hostile texts on {len(pages)} pages")


def printable(text):
    """The admin API takes no controls in names and intents; what it takes must be harmless too."""
    return not any(ord(c) < 32 for c in text) and len(text) < 1_000


def pictures(stage):
    """Each page at two widths, light and dark: nothing wider than the window, and axe-core finds nothing serious."""
    scene = stage.scene
    scene.populate()
    waiting = [Later(lambda n=n: scene.call("delete_transactions", {"account": str(n)})) for n in range(2)]
    request_id = scene.refused("PolicyDenied", "wipe_disk", {"disk": "sdd"})
    PICTURES.mkdir(parents=True, exist_ok=True)
    source, minor = axe(stage.packages), set()
    with stage.operator("/console") as visitor:
        while len(pending := scene.pending()) < 2:
            time.sleep(0.05)
        places = {
            "overview": "",
            "live": "/live",
            "why": f"/why/{request_id}",
            "sessions": "/sessions",
            "session": f"/sessions/{scene.session['session_id']}",
            "agents": "/agents",
            "agent": f"/agents/{scene.agent['agent_id']}",
            "approvals": "/approvals",
            "approval": f"/approvals/{pending[0]['approval_id']}",
            "policies": "/policies",
            "audit": "/audit",
            "health": "/health",
            "missing": "/no-such-page",
        }
        page = visitor.page
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                with visitor.looks(width, scheme):
                    for name, place in places.items():
                        visitor.go("/console" + place)
                        visitor.shoot(PICTURES / f"{name}-{width}-{scheme}.png")
                        found = visitor.axe(source)
                        visitor.trouble += [text for impact, text in found if impact in SERIOUS]
                        minor |= {text for impact, text in found if impact not in SERIOUS}
        page.get_by_role("button", name="Sign out").click()
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                with visitor.looks(width, scheme):
                    visitor.go("/console/sign-in")
                    visitor.shoot(PICTURES / f"sign-in-{width}-{scheme}.png")
                    visitor.trouble += [text for impact, text in visitor.axe(source) if impact in SERIOUS]
        visitor.check()
    for text in sorted(minor):
        stage.say(f"axe, minor: {text}")
    for one in scene.pending():
        stage.gateway.admin("POST", f"/approvals/{one['approval_id']}", {"decision": "deny"}, 200)
    for call in waiting:
        call.result()
    stage.say(f"{4 * (len(places) + 1)} pictures in {PICTURES}")


def demo(stage):
    """`arbiter demo` prints where the console is and a key that opens it."""
    command = [str(binary()), "demo", "--port", "0", "--admin-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if line.rstrip().endswith("/console"):
                break
        text = "".join(told)
        address = re.search(r"^(http://\S+)/console$", text, re.MULTILINE)
        key = re.search(r"^export ARBITER_ADMIN_API_KEY=(\S+)$", text, re.MULTILINE)
        assert address and key, text
        with Browser(stage.chromium, address[1]) as visitor:
            visitor.sign_in(key[1], "/console")
            expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Overview")
            visitor.go("/console/approvals?status=used")
            expect(visitor.page.locator("tbody tr")).to_have_count(1)
            expect(visitor.page.locator("tbody tr")).to_contain_text("write_file")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


CASES = [signing_in, keyboard_alone, live_refusals, approving, finding_a_request, without_scripts, hostile, pictures, demo]


class Stage:
    """What the cases share."""

    def __init__(self, chromium, gateway, scene, packages):
        self.chromium, self.gateway, self.scene, self.packages = chromium, gateway, scene, packages

    def browser(self, **context):
        return Browser(self.chromium, self.gateway.admin_url, **context)

    def operator(self, place):
        visitor = self.browser()
        visitor.sign_in(self.gateway.api_key, place)
        return visitor

    @staticmethod
    def say(text):
        print(f"  {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="drive the console with a real browser")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    packages = node_packages()
    settings = {
        "approvals": {"hold_secs": 60},
        "sessions": {"max_concurrent_sessions_per_agent": 100, "escalate_anomalies": True},
    }
    with tempfile.TemporaryDirectory() as folder, upstream(pathlib.Path(folder)) as (url, record):
        with Arbiter(url, policies=POLICIES, settings=settings) as gateway, sync_playwright() as playwright:
            browser = chromium(playwright)
            stage = Stage(browser, gateway, Scene(gateway, record, pathlib.Path(folder)), packages)
            failed = tried(CASES, options.only, stage)
            browser.close()
            if failed:
                print(gateway.log(), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
