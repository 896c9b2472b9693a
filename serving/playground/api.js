// What the page asks of the server, and how it reads the answers.

// `status` is that of HTTP, `path` what was asked; neither where no answer came.
export class ServerError extends Error {
  constructor(message, status = 0, path = "") {
    super(message);
    this.status = status;
    this.path = path;
  }
}

const NOT_IMPLEMENTED = 501;

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("offline");
  }
  if (response.ok) return response.json();
  let text = `${response.status} ${response.statusText}`;
  try {
    text = (await response.json()).error ?? text;
  } catch { /* a proxy's page: its status says enough */ }
  throw new ServerError(text, response.status, path);
}

export const place = ({ model, version }) =>
  `/api/models/${encodeURIComponent(model)}${version ? `/versions/${version}` : ""}`;

// Every version that serves, newest first.
export async function served() {
  const { models } = await ask("/api/models");
  const found = await Promise.all(models.map(async (model) => {
    const status = await ask(`/v1/models/${encodeURIComponent(model)}`);
    return status.model_version_status
      .filter((each) => each.state === "AVAILABLE")
      .map((each) => ({ model, version: Number(each.version) }));
  }));
  return found.flat();
}

// What of a version can be looked into; null of one that says nothing of its layers.
export async function layers(target) {
  try {
    return await ask(`${place(target)}/layers`);
  } catch (error) {
    if (error.status === NOT_IMPLEMENTED) return null;
    throw error;
  }
}

export const classify = (target, blob, signal) =>
  ask(`${place(target)}/classify?top_k=10`, {
    method: "POST", body: blob, headers: { "content-type": "application/octet-stream" }, signal,
  });

// Asks for an explanation; `asked` has method, layer, target and the method's own options.
export async function explain(target, blob, asked, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  // The first gradient starts a process that takes its time on a small machine.
  const headers = { "content-type": "application/octet-stream", "x-request-timeout-s": "120" };
  const found = await ask(`${place(target)}/explain?${query}`, {
    method: "POST", body: blob, headers, signal,
  });
  const arrays = {};
  for (const [name, array] of Object.entries(found.arrays)) arrays[name] = read(array);
  return { ...found, arrays };
}

function read({ dtype, shape, b64 }) {
  const text = atob(b64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  if (dtype === "uint8") return { shape, data: bytes };
  if (dtype === "int64") return { shape, data: Array.from(new BigInt64Array(bytes.buffer), Number) };
  return { shape, data: new Float32Array(bytes.buffer) };
}
