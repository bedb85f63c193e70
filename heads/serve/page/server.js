// What the page asks the server.

export async function about() {
  return (await asked("api/about")).json();
}

export async function look(file, count) {
  return (await post(`api/look?k=${count}`, file)).json();
}

export async function mask(file, sha256) {
  return (await post(`api/mask?photo=${sha256}`, file)).blob();
}

// Points are pixels [x, y] of the file; `grid` asks for points of what is drawn instead.
export async function match(file, sha256, points, grid) {
  const query = new URLSearchParams({ photo: sha256 });
  if (grid) query.set("grid", grid);
  for (const [x, y] of points) query.append("point", `${x},${y}`);
  return (await post(`api/match?${query}`, file)).json();
}

export function photo(sha256, side) {
  return `photos/${sha256}?side=${side}`;
}

function post(url, file) {
  const headers = { "Content-Type": file.type || "image/png" };
  return asked(url, { method: "POST", headers, body: file });
}

// Errors say in `busy` whether to ask again in a moment.
async function asked(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Error("The server does not answer: is it still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const error = new Error(said.error || `the server answered ${response.status}`);
  error.busy = response.status === 503;
  throw error;
}
