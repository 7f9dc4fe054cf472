// What a tab keeps until it is closed, as JSON; a browser that keeps nothing has the otherwise.
export const memory = {
  get(name, otherwise) { try { return JSON.parse(sessionStorage.getItem(name)) ?? otherwise; } catch { return otherwise; } },
  set(name, value) { try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* kept nowhere */ } },
  take(name, otherwise) {
    const kept = this.get(name, otherwise);
    this.set(name, null);
    return kept;
  },
};

/** Under which name a tab keeps what was decided in it: [{id, number}], of this audit, the last one last. */
export function made(audit) { return `made ${audit}`; }
