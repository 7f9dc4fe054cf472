// Decisions on a case, what undoes them, and the way from case to case. Nothing that is painted is lost unasked.
import { ask, complain, say } from "./dialog.js";
import { decisionsKey, memory } from "./memory.js";
import { who } from "./who.js";

const byId = (name) => document.getElementById(name);
const SAID = { given: "given accepted", proposed: "proposed accepted", mended: "mended", rejected: "rejected, left out", skipped: "skipped; it comes back" };

export class Decisions {
  /**
   * @param info what the page knows of its case
   * @param work what is painted: `lift()` ends a stroke, `unsaved()` says whether anything would be lost, `refuse(what)` why a decision cannot
   *   be made now, or "", `body()` the mask for the server, `tag(what)` the ETag of the mask that was shown; `stays` whether what is painted
   *   is there when one comes back
   */
  constructor(info, work) {
    Object.assign(this, { info, work, busy: false, leaving: false });
    this.made = decisionsKey(info.audit);
    window.addEventListener("beforeunload", (event) => { if (!this.leaving && !work.stays && work.unsaved()) event.preventDefault(); });
  }

  /** What keys do, by their names (see keys.js). */
  get keys() {
    return {
      a: () => this.decide("given"),
      p: () => this.decide("proposed"),
      m: () => this.decide("mended"),
      r: () => this.decide("rejected"),
      s: () => this.decide("skipped"),
      u: () => this.undo(),
      n: (event) => this.step(event.shiftKey ? "previous" : "next"),
      pagedown: () => this.step("next"),
      pageup: () => this.step("previous"),
    };
  }

  get idle() { return !this.busy && !this.leaving; }

  address(path, values) {
    const query = new URLSearchParams(this.info.query);
    for (const [name, value] of Object.entries(values)) query.set(name, value);
    return `${path}?${query}`;
  }

  go(path, words) {
    if (words) memory.set("said", words);
    this.leaving = true;
    location.assign(path);
  }

  /** Ask about what is painted, where that would be lost: "" to stay, "saved" once it is, "go" otherwise. */
  async mayLeave(then = "go on") {
    this.work.lift();
    if (!this.work.unsaved()) return "go";
    const text = `It is lost if you ${then} without saving it.`;
    const choice = await ask("The painted mask is not saved", text, `Save and ${then}`, "Stay", `${then[0].toUpperCase()}${then.slice(1)} without it`);
    if (choice === "other") return "go";
    return choice === "yes" && (await this.write("mended")) ? "saved" : "";
  }

  /** Do something that takes its time; nothing else is begun meanwhile. */
  async alone(work) {
    if (!this.idle) return;
    this.busy = true;
    try { await work(); } finally { this.busy = false; }
  }

  /** Post a change; if somebody has decided meanwhile, show who and what, and ask. Returns the answer, or null. */
  async change(path, values, body, anyway) {
    for (;;) {
      let answer, content;
      try {
        const headers = { "Content-Type": "application/octet-stream" };
        answer = await fetch(this.address(path, { ...values, who: who() }), { method: "POST", body, headers });
        content = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
      } catch {
        complain("The server does not answer; nothing was written. Is `pixeltrust review` still running?");
        return null;
      }
      if (answer.ok) return content;
      if (answer.status !== 409) {
        complain(content.error);
        return null;
      }
      const lines = content.later.map((made) => `${made.who}: ${made.what} (${made.at.slice(0, 16).replace("T", " ")} UTC)`);
      const choice = await ask("Somebody has decided meanwhile", lines.join(" · "), anyway, "Cancel", "Look at it");
      if (choice === "other" && (await this.mayLeave())) this.go(this.address("/case", { id: values.id }));
      if (choice !== "yes") return null;
      values = { ...values, seen: content.later.at(-1).number };
    }
  }

  /** Write a decision; returns the answer, or null. */
  async write(what) {
    const { info, work } = this, refused = work.refuse(what);
    if (refused) {
      say(refused);
      return null;
    }
    const values = { id: info.id, what, seen: info.seen, version: info.version, shown: work.tag(what) };
    const made = await this.change("/decide", values, what === "mended" ? work.body() : undefined, "Decide anyway");
    if (made) memory.set(this.made, [...memory.get(this.made, []), { id: info.id, number: made.number }].slice(-200));
    return made;
  }

  decide(what) {
    return this.alone(async () => {
      const { info, work } = this;
      work.lift();
      const refused = work.refuse(what);
      if (refused) return say(refused);
      if (what !== "mended" && work.unsaved() && !(what === "skipped" && work.stays)) {
        const may = await this.mayLeave("go on");
        if (may !== "go") {
          if (may === "saved") this.go(this.address("/case", { id: info.id }), `${info.id}: ${SAID.mended}`);
          return;
        }
      }
      const made = await this.write(what);
      if (!made) return;
      const words = `${info.id}: ${SAID[what]}. U`, back = made.again ? " What was skipped comes back now." : "";
      if (made.next === null) this.go(`/?${info.query}`, `${words} goes back to it`);
      else this.go(this.address("/case", { id: made.next }), `${words} undoes it.${back}`);
    });
  }

  undo(last = true) {
    return this.alone(async () => {
      const { info } = this, made = memory.get(this.made, []), own = last ? made.at(-1) : null;
      if (last && !own) return say(`Nothing was decided in this tab${info.decision ? "; 'Undo the decision on this case' is further down" : ""}`);
      const [id, seen] = own ? [own.id, own.number] : [info.id, info.seen];
      if (!this.work.stays && (await this.mayLeave()) !== "go") return;
      const undone = await this.change("/undo", { id, seen }, undefined, "Undo that one");
      if (!undone) return;
      const left = own ? made.slice(0, -1) : made.filter((each) => each.id !== id);
      memory.set(this.made, left.map((each) => (each.id === id ? { id, number: undone.number } : each))); // what was seen of the case by now
      this.go(this.address("/case", { id }), `${id}: undone`);
    });
  }

  /** Go to the address of a link, unless what is painted holds. */
  follow(link, otherwise) {
    return this.alone(async () => {
      const path = link.getAttribute("href");
      if (!path) return say(otherwise);
      if (this.work.stays) return this.go(path, this.work.unsaved() ? `${this.info.id}: what is painted is kept, and not decided yet` : "");
      const may = await this.mayLeave();
      if (may) this.go(path, may === "saved" ? `${this.info.id}: ${SAID.mended}` : "");
    });
  }

  step(which) { return this.follow(byId(which), which === "next" ? "This is the last one" : "This is the first one"); }

  /** Work the page's buttons. */
  listen() {
    for (const button of document.querySelectorAll("[data-decide]")) button.addEventListener("click", () => this.decide(button.dataset.decide));
    byId("undo").addEventListener("click", () => this.undo());
    byId("undo-here")?.addEventListener("click", () => this.undo(false));
    for (const which of ["previous", "next"]) {
      byId(which).addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.step(which);
      });
    }
    byId("renewed").addEventListener("click", (event) => {
      event.preventDefault();
      this.follow(byId("renewed"));
    });
    window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // from the browser's cache: what it shows is old
  }
}
