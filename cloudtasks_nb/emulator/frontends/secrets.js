// Replace secrets by dots in what the page shows. The rules are those of the toolkit's panels; a test holds both equal.

const MASK = "•••";
const WORDS = new Set(
  ("accesskey accesstoken apikey apitoken auth authorization authtoken bearer clientsecret cookie credential " +
    "credentials idtoken jwt passcode passphrase passwd password privatekey pwd refreshtoken secret secretkey sig " +
    "signature token").split(" "),
);
const KEYS = new Set(["access", "api", "auth", "client", "encryption", "private", "secret", "shared", "signing"]);
const WORD = /[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g;
// A text without any of these holds no secret.
const HINT = /auth|bearer|cookie|credential|jwt|key|pass|pwd|secret|sig|token/i;

const NAME = "[a-z][\\w.%\\[\\]-]*";
const HEAD = new RegExp(
  `(?<quote>["'])(?<field>${NAME})\\k<quote>\\s*:\\s*` + // a field of JSON, or of a dictionary
    `|(?<![\\w.%-])(?<parameter>${NAME})=` + // of a URL, a form or a call
    "|(?<![\\w-])(?<header>(?:proxy-)?authorization|(?:set-)?cookie|[\\w-]+-(?:key|token|signature)):[ \\t]*",
  "gi",
);
const VALUE = new RegExp(
  `"(?<double>(?:[^"\\\\]|\\\\.)*)|'(?<single>(?:[^'\\\\]|\\\\.)*)|(?<nested>\\{[^{}]*\\}?|\\[[^\\[\\]]*\\]?)` +
    "|(?<bare>(?:(?:basic|bearer|digest) +)?[^\\s&;,\"'<>(){}\\[\\]]+)",
  "iy",
);
const PASSWORD = /:\/\/[^\s/:@]*:(?<value>[^\s/@]+)(?=@)/g;
const NO_SECRET = new Set(["", "null", "None", "true", "false", "True", "False", MASK]);

// Whether the value under this name is not shown.
export function isSecret(name) {
  const words = (name.match(WORD) ?? []).map((word) => word.toLowerCase());
  return words.some((word, at) => WORDS.has(word) || (KEYS.has(word) && words[at + 1] === "key"));
}

// Whether the value of a header is not shown; one whose name ends in "-Key" is secret too.
export function isSecretHeader(name) {
  return isSecret(name) || name.toLowerCase().endsWith("-key");
}

// A text with dots in place of the secrets in its URLs, JSON, assignments and headers.
export function maskText(text) {
  let shown = "";
  let last = 0;
  for (const [begin, end] of findSecrets(text)) {
    if (begin >= last) {
      shown += text.slice(last, begin) + MASK;
      last = end;
    }
  }
  return shown + text.slice(last);
}

// Headers with dots in place of secrets.
export function maskHeaders(headers) {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, isSecretHeader(name) ? MASK : maskText(value)]),
  );
}

// A parsed body, or a part of one, with dots in place of secrets.
export function maskValue(value) {
  if (Array.isArray(value)) return value.map(maskValue);
  if (typeof value === "string") return maskText(value);
  if (value === null || typeof value !== "object" || JSON.isRawJSON?.(value)) return value;
  const hidden = (name, part) => isSecret(name) && part !== null && part !== "";
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [name, hidden(name, part) ? MASK : maskValue(part)]),
  );
}

function findSecrets(text) {
  const found = [];
  for (const match of text.matchAll(PASSWORD)) {
    const end = match.index + match[0].length;
    found.push([end - match.groups.value.length, end]);
  }
  if (!HINT.test(text)) return found;
  HEAD.lastIndex = 0;
  for (let head = HEAD.exec(text); head !== null; head = HEAD.exec(text)) {
    const secret = secretAfter(text, head);
    if (secret !== null) {
      found.push(secret);
      HEAD.lastIndex = secret[1]; // searching on behind a secret keeps this linear in the length of the text
    }
  }
  return found.sort(([one], [other]) => one - other);
}

function secretAfter(text, head) {
  const { field, parameter, header } = head.groups;
  const end = head.index + head[0].length;
  // Google's APIs take API keys in the parameter `key` of a URL.
  const isKey = parameter === "key" && "?&".includes(text[head.index - 1] ?? " ");
  if (!(isKey || header || isSecret(unquoted(field ?? parameter)))) return null;
  VALUE.lastIndex = end;
  const value = VALUE.exec(text);
  if (value === null || (value.groups.nested && !field)) return null; // the braces of a template
  const { double, single, nested, bare } = value.groups;
  const secret = double ?? single ?? nested ?? bare;
  const begin = nested === undefined && bare === undefined ? end + 1 : end; // behind the quote
  return NO_SECRET.has(secret) ? null : [begin, begin + secret.length];
}

function unquoted(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // not percent-encoded
  }
}
