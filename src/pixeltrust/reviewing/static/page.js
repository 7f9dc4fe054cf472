// What every page has: a name, a theme, the export.
import "./export.js";
import "./theme.js";
import "./who.js";
