// Live updates. Everything else works without this file. Rows come from the server, escaped by its
// templates; they are parsed as an inert document, and the page's policy lets no code in them run.
"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const topic = document.body.dataset.topic;
  if (!topic || !window.EventSource) return;
  const most = 300;
  let paused = false;
  let waiting = [];

  const parsed = (html) => new DOMParser().parseFromString(html, "text/html");

  const show = (html) => {
    const body = document.getElementById("rows");
    const rows = [...parsed(`<table><tbody>${html}</tbody></table>`).querySelectorAll("tr")];
    for (const row of rows.reverse()) {
      const own = document.importNode(row, true);
      own.classList.add("new");
      body.prepend(own);
    }
    while (body.rows.length > most) body.deleteRow(-1);
    document.querySelector("main > .empty")?.remove();
  };

  const busy = () => {
    const on = document.activeElement;
    return on && on.closest("main form, main details") !== null;
  };

  let reading = false;
  let stale = false;
  const refresh = async () => {
    stale = true;
    if (reading || document.hidden || busy()) return;
    reading = true;
    try {
      // What changes while the page is read has it read once more.
      while (stale) {
        stale = false;
        await reread();
      }
    } finally {
      reading = false;
    }
  };

  const reread = async () => {
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (answer.redirected) return location.reload();
    if (!answer.ok) return;
    const page = parsed(await answer.text());
    for (const part of ["main", ".side nav"]) {
      const [ours, theirs] = [document.querySelector(part), page.querySelector(part)];
      if (ours && theirs) ours.replaceChildren(...document.importNode(theirs, true).childNodes);
    }
    // What was being watched may be over, and have another stream or none.
    if ((page.body.dataset.topic ?? "") !== topic) events.close();
  };

  const events = new EventSource(`/console/events?${topic}`);
  events.addEventListener("rows", (event) => {
    if (paused) {
      waiting = [...waiting, event.data].slice(-50);
    } else {
      show(event.data);
    }
  });
  events.addEventListener("refresh", refresh);
  const state = document.getElementById("live-state");
  const say = (text) => {
    if (state && state.textContent !== text) state.textContent = text;
  };
  events.addEventListener("open", () => say("Live: new decisions appear by themselves. Select a time to have one explained."));
  events.addEventListener("error", () => say("The connection was lost; trying again."));
  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("focusout", () => stale && setTimeout(refresh));

  document.getElementById("pause")?.addEventListener("click", ({ currentTarget }) => {
    paused = !paused;
    currentTarget.setAttribute("aria-pressed", String(paused));
    currentTarget.textContent = paused ? "Go on" : "Pause";
    if (!paused) waiting.splice(0).forEach(show);
  });
})();
