// Replace secrets by dots in what the page shows. The rules are those of the toolkit's panels; a test holds both equal.

const MASK = "•••";
const SECRET = new RegExp(
  "^(?:auth|authorization|bearer|cookie|jwt|passcode|pwd|sig|signature|" +
    ".*(?:(?:access|api|private|secret)key|credentials?|passphrase|passwd|passwords?|secrets?|token))$",
);
const KEYS = new Set(["access", "api", "auth", "client", "encryption", "private", "secret", "shared", "signing"]);
const WORD = /[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g;
// A text without any of these has no secret that is known by its name.
const HINT = /auth|bearer|cookie|credential|jwt|key|pass|pwd|secret|sig|token/i;

const NAME = "[a-z][\\w.%\\[\\]-]*";
const HEAD = new RegExp(
  `(?<quote>["'])(?<field>${NAME})\\k<quote>\\s*:\\s*` + // a field of JSON, or of a dictionary
    `|(?<![\\w.%-])(?:(?<reference>--[a-z-]*secrets=[^\\s"']*)` + // of gcloud: names of secrets, which are none
    `|(?:--)?(?<parameter>${NAME})=)` + // of a URL, a form, a call or a command
    "|(?<![\\w-])(?<header>(?:proxy-)?authorization|(?:set-)?cookie|[\\w-]+-(?:key|token|signature)):[ \\t]*",
  "gi",
);
const VALUE = new RegExp(
  `"(?<double>(?:[^"\\\\]|\\\\.)*)|'(?<single>(?:[^'\\\\]|\\\\.)*)|(?<nested>\\{[^{}]*\\}?|\\[[^\\[\\]]*\\]?)` +
    "|(?<bare>(?:(?:apikey|basic|bearer|digest|token) +)?[^\\s&;,\"'<>(){}\\[\\]]+)",
  "iy",
);
// Private keys, and tokens by what their services begin them with; a group is the part that is secret.
const FORMS = String.raw`(?<![\w-])(?=[\w.:/=-]{16}|[Bb]|-----)(?:
    -----BEGIN[\x20A-Z]{0,30}\x20PRIVATE\x20KEY(?:\x20BLOCK)?-----[\s\S]*?(?:-----END[\x20A-Z]{0,40}-----|$)
    |[Bb]earer\x20+((?=\S{0,200}\d)[\w.~+/-]{12,}=*)|1//0[\w-]{20,}|AIza[\w-]{35}|ya29\.[\w.-]{20,}|GOCSPX-[\w-]{20,}
    |Basic\x20+((?=\S{0,200}(?:\d|[a-z][A-Z]))(?:[A-Za-z\d+/]{4}){2,}(?:[\w+/]{2}==|[\w+/]{3}=)?(?![\w+/=]))
    |A(?:KI|SI)A[\dA-Z]{16}\b|(?:AccountKey|SharedAccessKey)=([\w+/]{20,}=*)|dapi[\da-f]{32}|do[opr]_v1_[\da-f]{40,}
    |eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?|sk\.eyJ[\w-]{20,}\.[\w-]{10,}|(?:bot)?\d{8,10}:(AA[\w-]{33})
    |gh[oprsu]_[A-Za-z\d]{36,}|github_pat_\w{22,}|gl(?:pat|ptt|dt|rt|cbt|ft|soat|agent)-[\w-]{20,}|glsa_\w{32,}
    |xox[a-z](?:\.xox[a-z])?-[\w-]{10,}|xapp-\d-[\w-]{20,}|hooks\.slack\.com/(?:services|workflows)/([\w/]{20,})
    |discord(?:app)?\.com/api/webhooks/(\d+/[\w-]{30,})|webhook\.office\.com/webhookb2/([\w@/-]{30,})
    |[rs]k[-_](?:live|test)[-_](?=[A-Za-z]{0,80}\d)(?=\d{0,80}[A-Za-z])[A-Za-z\d]{10,}|whsec_[A-Za-z\d+/]{20,}
    |sk-ant-[\w-]{10,}|sk-(?:proj|svcacct|admin)-(?=[\w-]{0,80}[A-Z])[\w-]{20,}|sk-or-v\d-[\da-f]{20,}
    |sk-(?=[A-Za-z]{0,80}\d)[A-Za-z\d]{20,}|(?:xai|pplx|pul)-[A-Za-z\d]{40,}|(?:figd|dckr_pat|sntrys)_[\w-]{25,}
    |(?:hf|gsk|npm|lin_api|ntn|sbp|r8|secret)_[A-Za-z\d]{30,}|(?:hvs|hvb|dp\.pt)\.[\w-]{24,}|pypi-AgE[\w-]{20,}
    |lsv2_(?:pt|sk)_\w{30,}|PMAK-[\da-f]{24}-[\da-f]{34}|NRAK-[A-Z\d]{27}|AGE-SECRET-KEY-1\w{50,}|rubygems_[\da-f]{40,}
    |SG\.[\w-]{16,}\.(?=[\w-]{0,80}\d)(?=[\w-]{0,80}[A-Z])[\w-]{30,}|shp(?:at|ca|pa|ss)_[\da-fA-F]{32}
    |pat[A-Za-z\d]{14}\.[\da-f]{64}
)`;
const FORM = new RegExp(FORMS.replace(/\s/g, ""), "g");
const ESCAPE = /\\[nrt]|%[\da-fA-F]{2}/g;
const PASSWORD = /:\/\/[^\s/:@]*:(?<value>[^\s/@]+)(?=@)/g;
const NO_SECRET =
  /^(?:(?:•{3}|…|\.{3}|[*]+|<[^<>]*>)?|null|None|true|false|True|False|(?:[A-Z]+_)*(?:KEY|PASSWORD|SECRET|TOKEN))$/u;

// Whether the value under this name is not shown.
export function isSecret(name) {
  const words = (name.match(WORD) ?? []).map((word) => word.toLowerCase());
  return words.some((word, at) => SECRET.test(word) || (KEYS.has(word) && /^keys?$/.test(words[at + 1])));
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
    shown += text.slice(last, begin) + MASK;
    last = end;
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
    if (!NO_SECRET.test(match.groups.value)) found.push([end - match.groups.value.length, end]);
  }
  for (const match of text.replace(ESCAPE, (escape) => " ".repeat(escape.length)).matchAll(FORM)) {
    const end = match.index + match[0].length;
    found.push([end - (match.slice(1).find(Boolean) ?? match[0]).length, end]);
  }
  HEAD.lastIndex = 0;
  for (let head = HINT.test(text) ? HEAD.exec(text) : null; head !== null; head = HEAD.exec(text)) {
    const secret = head.groups.reference ? null : secretAfter(text, head);
    if (secret !== null) {
      found.push(secret);
      HEAD.lastIndex = secret[1]; // searching on behind a secret keeps this linear in the length of the text
    }
  }
  const apart = [];
  for (const [begin, end] of found.sort(([one], [other]) => one - other)) {
    const last = apart.at(-1);
    if (last === undefined || begin >= last[1]) apart.push([begin, end]);
    else last[1] = Math.max(last[1], end);
  }
  return apart;
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
  return NO_SECRET.test(secret) ? null : [begin, begin + secret.length];
}

function unquoted(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // not percent-encoded
  }
}
