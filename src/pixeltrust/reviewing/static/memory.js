// Values that a tab remembers until it is closed, as JSON; a browser without such storage returns `otherwise`.
export const memory = {
  get(name, otherwise) { try { return JSON.parse(sessionStorage.getItem(name)) ?? otherwise; } catch { return otherwise; } },
  set(name, value) { try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* not stored */ } },
  take(name, otherwise) {
    const value = this.get(name, otherwise);
    this.set(name, null);
    return value;
  },
};

/** The name under which a tab remembers its decisions on this audit: [{id, number}], the last one last. */
export function decisionsKey(audit) { return `made ${audit}`; }
