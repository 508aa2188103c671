"use strict";
// The map: an azimuthal equidistant projection of the sphere, always centred on the middle of the
// view, north up, so that no place on Earth is a special one. Points are unit vectors.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const frame = document.querySelector("#map .frame"), canvas = frame.querySelector("canvas");
const [bar, pointer, note, hint] = [".scale", ".pointer", ".note", ".hint"].map((s) => frame.querySelector(s));
const ink = canvas.getContext("2d");
const EARTH_M = 6371000, LIGHT_M_PER_US = 299.792458, RAD = Math.PI / 180;

// ---- The sphere

const vector = ([latitude, longitude]) => {
  const across = Math.cos(latitude * RAD);
  return [across * Math.cos(longitude * RAD), across * Math.sin(longitude * RAD),
    Math.sin(latitude * RAD)];
};
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const degrees = (v) => [Math.atan2(v[2], Math.hypot(v[0], v[1])) / RAD, Math.atan2(v[1], v[0]) / RAD];
// East, north and outward at a place.
const axesAt = ([latitude, longitude]) => {
  const [s, c] = [Math.sin(latitude * RAD), Math.cos(latitude * RAD)];
  const [sl, cl] = [Math.sin(longitude * RAD), Math.cos(longitude * RAD)];
  return [[-sl, cl, 0], [-s * cl, -s * sl, c], [c * cl, c * sl, s]];
};
const angleBetween = (a, b) => {
  const cross = Math.hypot(a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]);
  return Math.atan2(cross, dot(a, b));
};
// Radians east and north of the axes' place; inverse below.
const toPlane = ([east, north, out], v) => {
  const x = dot(v, east), y = dot(v, north), s = Math.hypot(x, y);
  const scale = s > 1e-12 ? Math.atan2(s, dot(v, out)) / s : 1;
  return [x * scale, y * scale];
};
const fromPlane = ([east, north, out], x, y) => {
  const angle = Math.min(Math.hypot(x, y), Math.PI), c = Math.cos(angle);
  const s = angle > 1e-12 ? Math.sin(angle) / angle : 1;
  return [0, 1, 2].map((k) => s * (x * east[k] + y * north[k]) + c * out[k]);
};

// ---- The world: rings and lines as arrays of unit vectors

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUE = Object.fromEntries([...DIGITS].map((digit, k) => [digit, k]));
const LONGEST_DEG = 1; // an edge is straight in degrees, so a longer one is divided
const decode = (text, step) => {
  const places = [];
  let at = 0, longitude = 0, latitude = 0;
  const next = () => {
    let value = 0, scale = 1, digit;
    do { digit = VALUE[text[at++]]; value += (digit % 32) * scale; scale *= 32; } while (digit >= 32);
    return value % 2 ? -(value + 1) / 2 : value / 2;
  };
  while (at < text.length) {
    const before = [latitude, longitude];
    longitude += next(); latitude += next();
    const parts = places.length
      ? Math.ceil(Math.max(Math.abs(latitude - before[0]), Math.abs(longitude - before[1])) * step / LONGEST_DEG)
      : 1;
    for (let k = 1; k <= parts; k++)
      places.push([step * (before[0] + (latitude - before[0]) * k / parts),
        step * (before[1] + (longitude - before[1]) * k / parts)]);
  }
  return places;
};
const shapeOf = (places) => {
  const n = places.length, points = new Float64Array(3 * n), seam = new Uint8Array(n);
  places.forEach((place, k) => {
    points.set(vector(place), 3 * k);
    // Edges of the original maps, which are no coasts.
    seam[k] = Math.abs(place[1]) > 179.99 || place[0] < -89.9 ? 1 : 0;
  });
  const middle = [0, 1, 2].map((j) => { let s = 0; for (let k = j; k < 3 * n; k += 3) s += points[k]; return s; });
  const length = Math.hypot(...middle) || 1, centre = middle.map((m) => m / length);
  let least = 1;
  for (let k = 0; k < 3 * n; k += 3)
    least = Math.min(least, centre[0] * points[k] + centre[1] * points[k + 1] + centre[2] * points[k + 2]);
  return { points, seam, n, centre, reach: Math.acos(Math.max(least, -1)) };
};
// For a view of the whole world: without points that lie closer together than that.
const thinned = (shape, apart) => {
  const keep = [];
  for (let k = 0, last = -1; k < shape.n; k++) {
    const near = last >= 0 && k < shape.n - 1 && Math.hypot(...[0, 1, 2].map(
      (j) => shape.points[3 * k + j] - shape.points[3 * last + j])) < apart;
    if (!near) { keep.push(k); last = k; }
  }
  const points = new Float64Array(3 * keep.length);
  keep.forEach((k, to) => points.set(shape.points.subarray(3 * k, 3 * k + 3), 3 * to));
  return { ...shape, points, seam: Uint8Array.from(keep, (k) => shape.seam[k]), n: keep.length };
};
const original = JSON.parse(byId("world").textContent);
const LEVELS = [0, 2e3, 1e4].map((metres) => metres / EARTH_M);
const world = {};
for (const layer of ["land", "lakes", "islands", "borders"]) {
  const whole = original[layer].map((text) => shapeOf(decode(text, original.step_deg)));
  world[layer] = LEVELS.map((apart) => apart
    ? whole.filter((shape) => shape.reach > apart).map((shape) => thinned(shape, apart)) : whole);
}
const towns = original.places.map(([name, latitude, longitude, from]) =>
  ({ name, at: vector([latitude, longitude]), from }));

// ---- The view

const view = { centre: [0, 0], scale: 1, axes: axesAt([0, 0]), width: 1, height: 1 };
const at = (v) => {
  const [x, y] = toPlane(view.axes, v);
  return [view.width / 2 + x * view.scale, view.height / 2 - y * view.scale];
};
const under = (x, y) =>
  fromPlane(view.axes, (x - view.width / 2) / view.scale, (view.height / 2 - y) / view.scale);
const leastScale = () => Math.min(view.width, view.height) / (2 * Math.PI) * 0.97;
const MOST_SCALE = EARTH_M / 0.05; // five centimetres a pixel
const moveTo = (centre, scale = view.scale) => {
  view.scale = Math.min(Math.max(scale, leastScale()), MOST_SCALE);
  // At the pole itself north has no direction.
  view.centre = [Math.min(Math.max(centre[0], -89.99), 89.99), centre[1]];
  view.axes = axesAt(view.centre);
  draw();
};
const moveBy = (x, y) => moveTo(degrees(under(view.width / 2 + x, view.height / 2 + y)));
const zoomBy = (factor, x = view.width / 2, y = view.height / 2) => {
  const fixed = under(x, y);
  moveTo(view.centre, view.scale * factor);
  for (let k = 0; k < 8; k++) {
    const [nowX, nowY] = at(fixed);
    if (Math.hypot(nowX - x, nowY - y) < 0.01) break;
    moveBy(nowX - x, nowY - y);
  }
};
const fit = (points, margin) => {
  const sum = [0, 1, 2].map((k) => points.reduce((total, v) => total + v[k], 0));
  let centre = degrees(sum), scale = 1;
  for (let k = 0; k < 4; k++) {
    const plane = points.map((v) => toPlane(axesAt(centre), v));
    const [x, y] = [0, 1].map((j) => plane.map((p) => p[j]));
    const [low, high] = [[Math.min(...x), Math.min(...y)], [Math.max(...x), Math.max(...y)]];
    scale = Math.min((view.width - 2 * margin) / Math.max(high[0] - low[0], 1e-9),
      (view.height - 2 * margin) / Math.max(high[1] - low[1], 1e-9));
    centre = degrees(fromPlane(axesAt(centre), (low[0] + high[0]) / 2, (low[1] + high[1]) / 2));
  }
  moveTo(centre, Math.min(scale, EARTH_M / 0.2));
};
const candidates = data.candidates.map((one) =>
  ({ ...one, at: vector(one.at), outlines: one.outlines.map((line) => line.map(vector)) }));
const receivers = data.receivers.map((one) => ({ ...one, at: vector(one.at) }));
// Those of the 95 % region.
const probable = candidates.filter((_, k) =>
  candidates.slice(0, k).reduce((total, one) => total + one.probability, 0) < 0.95);
const margin = () => Math.min(view.width, view.height) * 0.1;
const showAll = () => {
  const used = receivers.filter((one) => one.used).map((one) => one.at);
  const wanted = [...used, ...probable.flatMap((one) => one.outlines[1])];
  fit(wanted, margin());
  // Those that were not used may be anywhere, and must not make the rest small.
  const near = 2 * Math.max(...wanted.map((v) => angleBetween(v, view.axes[2])));
  const others = receivers.map((one) => one.at).filter((v) => angleBetween(v, view.axes[2]) < near);
  if (others.length > used.length) fit([...wanted, ...others], margin());
};
const showCandidate = (one) => fit(one.outlines[1], Math.min(view.width, view.height) * 0.3);

// ---- Drawing

let colours = {};
const readColours = () => {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["page", "ink", "muted", "grid", "answer", "heat", "receiver", "hyperbola",
    "sea", "land", "coast", "border", "town", "sans"])
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  ink.fillStyle = colours.heat;
  colours.heatRgb = [1, 3, 5].map((k) => parseInt(ink.fillStyle.slice(k, k + 2), 16));
};

let waiting = 0, resting = 0, moving = false;
const draw = () => {
  moving = true;
  waiting ||= requestAnimationFrame(() => { waiting = 0; paint(); });
  clearTimeout(resting);
  resting = setTimeout(() => { moving = false; paint(); }, 160);
};
const paint = () => {
  ink.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  ink.clearRect(0, 0, view.width, view.height);
  ink.lineJoin = "round";
  ink.setLineDash([]);
  paintWorld();
  paintGraticule();
  if (byId("show-heat").checked) paintHeat();
  paintHyperbolas();
  for (const one of candidates)
    one.outlines.forEach((line, k) => {
      ink.globalAlpha = probable.includes(one) ? 1 : 0.45;
      trace([...line, line[0]]);
      stroke(colours.answer, k ? 1.4 : 2, k ? [6, 4] : []);
      ink.globalAlpha = 1;
    });
  paintMarks();
  paintBar();
};
const stroke = (colour, width, dash = []) => {
  ink.strokeStyle = colour; ink.lineWidth = width; ink.setLineDash(dash); ink.stroke(); ink.setLineDash([]);
};
// A line of vectors; broken where it runs around the edge of the world.
const trace = (line) => {
  ink.beginPath();
  let before = null;
  for (const v of line) {
    const [x, y] = at(v);
    if (before && Math.hypot(x - before[0], y - before[1]) < view.scale * 1.5) ink.lineTo(x, y);
    else ink.moveTo(x, y);
    before = [x, y];
  }
};
// Angle from the middle of the view to its corners.
const viewReach = () => Math.min(Math.hypot(view.width, view.height) / 2 / view.scale, Math.PI);

const paintWorld = () => {
  const reach = viewReach(), metresPerPixel = EARTH_M / view.scale;
  const level = metresPerPixel > 6000 ? 2 : metresPerPixel > 1200 ? 1 : 0;
  // Farther points are moved to a circle, far enough outside that no edge enters the view for it.
  const limit = Math.min(Math.max(2 * reach, 0.1), Math.PI * 0.995), least = Math.cos(limit);
  const far = limit * view.scale, [cx, cy] = [view.width / 2, view.height / 2];
  const [east, north, out] = view.axes;
  const bounded = reach > 1.5;
  ink.save();
  ink.beginPath();
  if (bounded) ink.arc(cx, cy, Math.PI * view.scale, 0, 2 * Math.PI);
  else ink.rect(0, 0, view.width, view.height);
  ink.fillStyle = colours.sea; ink.fill(); ink.clip();

  const path = (shape, closed) => {
    const { points, seam, n } = shape, fill = new Path2D(), line = new Path2D();
    let before = null, area = 0, first = null, wasSeam = 0, wasFar = false, seen = 0;
    for (let k = 0; k < n; k++) {
      const [vx, vy, vz] = [points[3 * k], points[3 * k + 1], points[3 * k + 2]];
      const x0 = vx * east[0] + vy * east[1], y0 = vx * north[0] + vy * north[1] + vz * north[2];
      const z0 = vx * out[0] + vy * out[1] + vz * out[2], s = Math.sqrt(x0 * x0 + y0 * y0);
      const outside = z0 < least;
      seen += !outside;
      const scale = outside ? far / (s || 1e-12) : s > 1e-9 ? Math.atan2(s, z0) / s * view.scale : view.scale;
      const x = x0 * scale, y = -y0 * scale;
      if (!before) { fill.moveTo(cx + x, cy + y); line.moveTo(cx + x, cy + y); first = [x, y]; }
      else {
        if (outside && wasFar) {
          // Around the circle, the short way.
          let from = Math.atan2(before[1], before[0]), turn = Math.atan2(y, x) - from;
          turn -= 2 * Math.PI * Math.round(turn / (2 * Math.PI));
          const steps = Math.ceil(Math.abs(turn) / 0.3);
          for (let j = 1; j < steps; j++) {
            const [px, py] = [far * Math.cos(from + turn * j / steps), far * Math.sin(from + turn * j / steps)];
            fill.lineTo(cx + px, cy + py);
            area += before[0] * py - before[1] * px;
            before = [px, py];
          }
        }
        if (outside && wasFar && Math.abs(x - before[0]) + Math.abs(y - before[1]) < far * 0.02 && k < n - 1) continue;
        fill.lineTo(cx + x, cy + y);
        if ((outside && wasFar) || (wasSeam && seam[k])) line.moveTo(cx + x, cy + y);
        else line.lineTo(cx + x, cy + y);
        area += before[0] * y - before[1] * x;
      }
      before = [x, y]; wasSeam = seam[k]; wasFar = outside;
    }
    if (closed && first) area += before[0] * first[1] - before[1] * first[0];
    // A ring on the far side that does not go around the view.
    return !seen && Math.abs(area) < far * far ? null : { fill, line, area };
  };
  const visible = (shape) =>
    dot(shape.centre, out) > Math.cos(Math.min(shape.reach + reach, Math.PI)) - 1e-12
    || shape.reach + reach >= Math.PI;
  const layer = (name, colour, fillColour, width) => {
    ink.fillStyle = fillColour;
    const lines = new Path2D();
    for (const shape of world[name][level]) {
      if (!visible(shape)) continue;
      const picture = path(shape, Boolean(fillColour));
      if (!picture) continue;
      const { fill, line, area } = picture;
      if (fillColour) {
        // A ring turned inside out holds the antipode. The sign alone is noise if a ring is tiny.
        if (area * shape.turn < 0 && -dot(shape.centre, out) > Math.cos(shape.reach)) fill.arc(cx, cy, far, 0, 2 * Math.PI);
        ink.fill(fill, "evenodd");
      }
      lines.addPath(line);
    }
    ink.strokeStyle = colour; ink.lineWidth = width; ink.stroke(lines);
  };
  layer("land", colours.coast, colours.land, 0.9);
  layer("lakes", colours.coast, colours.sea, 0.7);
  layer("islands", colours.coast, colours.land, 0.7);
  layer("borders", colours.border, null, 1);
  ink.restore();
  if (bounded) { ink.beginPath(); ink.arc(cx, cy, Math.PI * view.scale, 0, 2 * Math.PI); stroke(colours.coast, 1); }
};
// +1 for a ring whose picture around its own middle runs one way, -1 for the other.
for (const name of ["land", "lakes", "islands"])
  for (const shapes of world[name])
    for (const shape of shapes) {
      const axes = axesAt(degrees(shape.centre));
      let area = 0, before = null;
      for (let k = 0; k < shape.n; k++) {
        const [x, y] = toPlane(axes, shape.points.subarray(3 * k, 3 * k + 3));
        if (before) area += before[0] * -y - before[1] * -x;
        before = [x, y];
      }
      shape.turn = Math.sign(area) || 1;
    }

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30];
const paintGraticule = () => {
  const reach = viewReach();
  const wanted = 2 * reach / RAD / 5;
  const step = STEPS.find((s) => s >= wanted) ?? 30;
  const narrow = Math.min(Math.max(Math.cos(view.centre[0] * RAD), 0.02), 1);
  const eastStep = STEPS.find((s) => s >= wanted / narrow * 0.7) ?? 30;
  const northReach = Math.min(1.1 * reach / RAD, 180), eastReach = Math.min(1.2 * reach / RAD / narrow, 180);
  const [south, top] = [Math.max(view.centre[0] - northReach, -90), Math.min(view.centre[0] + northReach, 90)];
  const whole = eastReach > 170 || top > 88 || south < -88;
  const [west, right] = whole ? [-180, 180] : [view.centre[1] - eastReach, view.centre[1] + eastReach];
  ink.font = `11px ${colours.sans}`;
  const label = (text, x, y, align) => {
    ink.textAlign = align; ink.textBaseline = "middle"; ink.lineWidth = 3;
    ink.strokeStyle = colours.sea; ink.strokeText(text, x, y);
    ink.fillStyle = colours.muted; ink.fillText(text, x, y);
  };
  const decimals = (s) => Math.max(0, -Math.floor(Math.log10(s) + 1e-9));
  const lines = [];
  const meridians = whole ? [-180, 180 - eastStep] : [west, right];
  for (let k = Math.ceil(meridians[0] / eastStep); k * eastStep <= meridians[1]; k++)
    lines.push([true, k * eastStep]);
  for (let k = Math.ceil(south / step); k * step <= top; k++)
    if (Math.abs(k * step) < 90) lines.push([false, k * step]);
  if (lines.length > 200) return;
  const labels = [];
  for (const [isMeridian, value] of lines) {
    const [from, to] = isMeridian ? [Math.max(south, -89), Math.min(top, 89)] : [west, right];
    const n = whole ? 180 : 60, line = Array.from({ length: n + 1 }, (_, k) => {
      const along = from + (to - from) * k / n;
      return vector(isMeridian ? [along, value] : [value, along]);
    });
    trace(line);
    stroke(colours.grid, 0.8);
    // Labels stand where a line crosses the lower or the left edge.
    const points = line.map(at);
    for (let k = 1; k < points.length; k++) {
      const [[x0, y0], [x1, y1]] = [points[k - 1], points[k]];
      const edge = isMeridian ? view.height - 10 : 8;
      const [p, q] = isMeridian ? [y0, y1] : [x0, x1];
      if ((p - edge) * (q - edge) > 0 || p === q || Math.hypot(x1 - x0, y1 - y0) > view.scale) continue;
      const share = (edge - p) / (q - p), x = x0 + share * (x1 - x0), y = y0 + share * (y1 - y0);
      const turned = ((value + 540) % 360) - 180;
      const size = Math.abs(isMeridian ? turned : value).toFixed(decimals(isMeridian ? eastStep : step));
      const side = +size % 180 === 0 ? "" : isMeridian ? (turned < 0 ? " W" : " E") : (value < 0 ? " S" : " N");
      const inside = isMeridian ? x > 46 && x < view.width - 160 : y > 186 && y < view.height - 24;
      if (inside) labels.push([`${size}°${side}`, x, y, isMeridian ? "center" : "left"]);
      break;
    }
  }
  for (const one of labels) label(...one);
};

// ---- The posterior

// Pictures of each candidate, the narrowest first.
const heat = data.heat.map((pictures) => pictures.map((one) => {
  const bytes = Uint8Array.from(atob(one.pixels), (c) => c.charCodeAt(0));
  const [east, north, out] = axesAt(one.at), [s, c] = [Math.sin(one.bearing), Math.cos(one.bearing)];
  return { ...one, bytes, out, along: [0, 1, 2].map((k) => s * east[k] + c * north[k]),
    right: [0, 1, 2].map((k) => c * east[k] - s * north[k]) };
}).reverse()).filter((pictures) => pictures.length);
const sheet = document.createElement("canvas");
const paintHeat = () => {
  // Only the part of the view where the pictures are.
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const pictures of heat) {
    const { extents: [[u0, u1], [v0, v1]], along, right: across, out } = pictures.at(-1);
    if (Math.max(u1 - u0, v1 - v0) > 1) { [left, top, right, bottom] = [0, 0, view.width, view.height]; break; }
    for (let k = 0; k <= 16; k++)
      for (const [u, v] of [[k / 16, 0], [k / 16, 1], [0, k / 16], [1, k / 16]]) {
        const [x, y] = at(fromPlane([along, across, out], u0 + u * (u1 - u0), v0 + v * (v1 - v0)));
        left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
      }
  }
  left = Math.floor(Math.max(left - 2, 0)); top = Math.floor(Math.max(top - 2, 0));
  right = Math.min(right + 2, view.width); bottom = Math.min(bottom + 2, view.height);
  if (!(right > left && bottom > top)) return;
  const area = (right - left) * (bottom - top);
  const pixel = Math.max(moving ? Math.sqrt(area / 60000) : Math.sqrt(area / 400000), 0.5);
  const width = Math.ceil((right - left) / pixel), height = Math.ceil((bottom - top) / pixel);
  sheet.width = width; sheet.height = height;
  const paper = sheet.getContext("2d"), image = paper.createImageData(width, height), out = image.data;
  const [r, g, b] = colours.heatRgb, [east, north, up] = view.axes;
  for (let j = 0, to = 0; j < height; j++)
    for (let i = 0; i < width; i++, to += 4) {
      const x = (left + (i + 0.5) * pixel - view.width / 2) / view.scale;
      const y = (view.height / 2 - top - (j + 0.5) * pixel) / view.scale;
      const angle = Math.sqrt(x * x + y * y);
      if (angle > Math.PI) continue;
      const s = angle > 1e-12 ? Math.sin(angle) / angle : 1, c = Math.cos(angle);
      const p0 = s * (x * east[0] + y * north[0]) + c * up[0];
      const p1 = s * (x * east[1] + y * north[1]) + c * up[1];
      const p2 = s * (x * east[2] + y * north[2]) + c * up[2];
      let most = 0;
      for (const pictures of heat) {
        const { along, right: across, out: away } = pictures[0];
        const a = p0 * along[0] + p1 * along[1] + p2 * along[2];
        const d = p0 * across[0] + p1 * across[1] + p2 * across[2];
        const flat = Math.sqrt(a * a + d * d);
        const k = flat > 1e-12 ? Math.atan2(flat, p0 * away[0] + p1 * away[1] + p2 * away[2]) / flat : 1;
        for (const { extents, n, bytes } of pictures) {
          const u = (a * k - extents[0][0]) / (extents[0][1] - extents[0][0]) * (n - 1);
          const v = (d * k - extents[1][0]) / (extents[1][1] - extents[1][0]) * (n - 1);
          if (!(u >= 0 && v >= 0 && u <= n - 1 && v <= n - 1)) continue;
          const ui = Math.min(u | 0, n - 2), vi = Math.min(v | 0, n - 2), fu = u - ui, fv = v - vi;
          const o = vi * n + ui;
          const root = (bytes[o] * (1 - fu) + bytes[o + 1] * fu) * (1 - fv)
            + (bytes[o + n] * (1 - fu) + bytes[o + n + 1] * fu) * fv;
          if (root > most) most = root;
          break;
        }
      }
      const share = (most / 255) ** 2;
      if (share < 0.05) continue; // outside the 95 % region, where tails reach far
      out[to] = r; out[to + 1] = g; out[to + 2] = b; out[to + 3] = 22 + share * 184;
    }
  paper.putImageData(image, 0, 0);
  ink.imageSmoothingEnabled = true;
  ink.drawImage(sheet, left, top, width * pixel, height * pixel);
};

// ---- Hyperbolas

// On the sphere, the points that are nearer to b than to a by an angle d are the curve
// tan(distance from a) = (cos d - cos s) / (sin s cos(bearing from a) - sin d), where s is the
// angle from a to b (I. Todhunter, "Spherical Trigonometry", 1886, cosine rule).
const timed = receivers.filter((one) => one.used && Number.isFinite(one.residual_us));
const pairs = timed.flatMap((a, k) => timed.slice(k + 1).map((b) => ({ a, b, shown: false })));
for (const pair of pairs) {
  const { a, b } = pair, first = candidates[0].at;
  const late = (a.residual_us - b.residual_us) * LIGHT_M_PER_US / EARTH_M;
  const d = angleBetween(first, a.at) - angleBetween(first, b.at) + late;
  const s = angleBetween(a.at, b.at);
  if (!(s > 1e-9 && Math.abs(d) < s)) continue;
  const axes = axesAt(degrees(a.at)), [bx, by] = toPlane(axes, b.at), bearing = Math.atan2(bx, by);
  const point = (turn) => {
    const angle = Math.atan2(Math.cos(d) - Math.cos(s), Math.sin(s) * Math.cos(turn - bearing) - Math.sin(d));
    return fromPlane(axes, angle * Math.sin(turn), angle * Math.cos(turn));
  };
  // Divided until points lie close together, the closer the nearer to the answer.
  const between = (from, p, to, q, depth) => {
    const length = angleBetween(p, q), away = Math.min(angleBetween(p, first), angleBetween(q, first));
    if (depth > 30 || length < Math.max(1e-6, Math.min(0.05 * away, 0.01))) return [q];
    const middle = (from + to) / 2, m = point(middle);
    return [...between(from, p, middle, m, depth + 1), ...between(middle, m, to, q, depth + 1)];
  };
  const turns = Array.from({ length: 25 }, (_, k) => bearing + Math.PI * k / 12);
  pair.line = [point(turns[0]), ...turns.slice(1).flatMap((turn, k) => between(turns[k], point(turns[k]), turn, point(turn), 0))];
}
const paintHyperbolas = () => {
  const limit = viewReach() * 1.5 + 0.02;
  for (const { line, shown } of pairs) {
    if (!shown || !line) continue;
    ink.beginPath();
    let before = null;
    line.forEach((v, k) => {
      // A part far outside the view is left out, so that no long line comes in from there.
      const near = [line[k - 1], v, line[k + 1]].some((p) => p && angleBetween(p, view.axes[2]) < limit);
      if (!near) { before = null; return; }
      const [x, y] = at(v);
      if (before && Math.hypot(x - before[0], y - before[1]) < view.scale * 1.5) ink.lineTo(x, y);
      else ink.moveTo(x, y);
      before = [x, y];
    });
    stroke(colours.hyperbola, 1.3);
  }
};
if (pairs.length) {
  byId("hyperbolas").hidden = false;
  const boxes = pairs.map((pair) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox"; box.disabled = !pair.line;
    const why = pair.line ? "" : " (longer than the way between them)";
    label.append(box, `${pair.a.name} – ${pair.b.name}${why}`);
    box.addEventListener("change", () => { pair.shown = box.checked; draw(); });
    byId("hyperbolas").querySelector(".pairs").append(label);
    return box;
  });
  byId("all-pairs").addEventListener("change", (event) => {
    boxes.forEach((box, k) => { if (!box.disabled) box.checked = pairs[k].shown = event.target.checked; });
    draw();
  });
}

// ---- Marks and names

let hot = []; // what the pointer can ask about
const paintMarks = () => {
  hot = [];
  const taken = [[0, 0, 54, 176], [view.width - 150, view.height - 36, 150, 36]];
  const free = (box) => box[0] > 2 && box[1] > 2 && box[0] + box[2] < view.width - 2 && box[1] + box[3] < view.height - 2
    && taken.every((t) => box[0] > t[0] + t[2] || t[0] > box[0] + box[2] || box[1] > t[1] + t[3] || t[1] > box[1] + box[3]);
  const write = (text, [x, y], away, font, colour, needed) => {
    ink.font = font;
    const shown = text.length > 32 ? `${text.slice(0, 31)}…` : text, width = ink.measureText(shown).width;
    const sides = [[away, -8], [-away - width, -8], [-width / 2, away - 2], [-width / 2, -away - 14]];
    const boxes = sides.map(([dx, dy]) => [x + dx, y + dy, width, 16]);
    const box = boxes.find(free) ?? (needed ? boxes[0] : null);
    if (!box) return;
    taken.push(box);
    ink.textAlign = "left"; ink.textBaseline = "middle"; ink.lineJoin = "round";
    ink.lineWidth = 3.5; ink.strokeStyle = colours.page; ink.strokeText(shown, box[0], box[1] + 8);
    ink.fillStyle = colour; ink.fillText(shown, box[0], box[1] + 8);
  };
  const seen = (v) => {
    const [x, y] = at(v);
    return x > -20 && y > -20 && x < view.width + 20 && y < view.height + 20 ? [x, y] : null;
  };
  const marks = [...receivers].sort((p, q) => p.used - q.used).map((one) => ({ one, place: seen(one.at) })).filter((m) => m.place);
  const found = candidates.map((one) => ({ one, place: seen(one.at) })).filter((m) => m.place);
  for (const { one, place: [x, y] } of marks) {
    ink.beginPath(); ink.moveTo(x, y - 8); ink.lineTo(x + 7.5, y + 5.5); ink.lineTo(x - 7.5, y + 5.5); ink.closePath();
    ink.fillStyle = one.used ? colours.receiver : colours.page; ink.fill();
    stroke(one.used ? colours.page : colours.muted, 1.5);
    taken.push([x - 9, y - 9, 18, 16]);
    hot.push({ x, y, title: one.name, text: one.about });
  }
  for (const { one, place: [x, y] } of [...found].reverse()) {
    ink.beginPath(); ink.arc(x, y, one === candidates[0] ? 5 : 4, 0, 2 * Math.PI);
    ink.fillStyle = colours.answer; ink.fill(); stroke(colours.page, 2);
    taken.push([x - 6, y - 6, 12, 12]);
    hot.push({ x, y, title: `Candidate ${one.label}`, text: one.coordinates });
  }
  if (candidates.length > 1)
    for (const { one, place } of found) write(one.label, place, 11, `600 13px ${colours.sans}`, colours.answer, one === candidates[0]);
  for (const { one, place } of [...marks].reverse())
    write(one.name, place, 12, `600 12.5px ${colours.sans}`, one.used ? colours.receiver : colours.muted, false);
  if (!byId("show-names").checked) return;
  // Natural Earth's least zoom is of tiles of 256 pixels around the equator.
  const zoom = Math.log2(view.scale * 2 * Math.PI / 256) + 0.6, least = Math.cos(Math.min(viewReach(), Math.PI));
  let n = 0;
  for (const town of towns) {
    if (town.from > zoom || n > 60) break;
    if (dot(town.at, view.axes[2]) < least) continue;
    const place = seen(town.at);
    if (!place || !free([place[0] - 3, place[1] - 3, 6, 6])) continue;
    n++;
    ink.beginPath(); ink.arc(...place, 2, 0, 2 * Math.PI); ink.fillStyle = colours.town; ink.fill();
    write(town.name, place, 6, `11.5px ${colours.sans}`, colours.town, false);
  }
};
const paintBar = () => {
  const metresPerPixel = EARTH_M / view.scale, wanted = 120 * metresPerPixel;
  const decade = 10 ** Math.floor(Math.log10(wanted));
  const length = Math.max(...[1, 2, 5].map((m) => m * decade).filter((m) => m <= wanted));
  hint.hidden = metresPerPixel > 100;
  bar.style.width = `${length / metresPerPixel}px`;
  bar.textContent = length < 1000 ? `${+length.toPrecision(1)} m` : `${+(length / 1000).toPrecision(1)} km`;
};

// ---- Hands

const acts = {
  "+": () => zoomBy(1.6), "=": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6), 0: showAll,
  c: () => showCandidate(candidates[0]),
  ArrowLeft: () => moveBy(-0.15 * view.width, 0), ArrowRight: () => moveBy(0.15 * view.width, 0),
  ArrowUp: () => moveBy(0, -0.15 * view.height), ArrowDown: () => moveBy(0, 0.15 * view.height),
};
frame.addEventListener("keydown", (event) => {
  const act = acts[event.key];
  if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { act(); event.preventDefault(); }
});
for (const button of frame.querySelectorAll("button"))
  button.addEventListener("click", () => acts[button.dataset.key]());
const placeOf = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
canvas.addEventListener("dblclick", (event) => { zoomBy(2, ...placeOf(event)); event.preventDefault(); });
canvas.addEventListener("wheel", (event) => {
  const lines = event.deltaMode === 1 ? 30 : 1;
  zoomBy(Math.exp(-Math.max(Math.min(event.deltaY * lines, 240), -240) / 320), ...placeOf(event));
  event.preventDefault();
}, { passive: false });
const fingers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, placeOf(event));
  canvas.setPointerCapture(event.pointerId);
  ask(event);
});
canvas.addEventListener("pointermove", (event) => {
  ask(event);
  if (!fingers.has(event.pointerId)) return;
  const now = placeOf(event), before = fingers.get(event.pointerId);
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  fingers.set(event.pointerId, now);
  if (other) {
    const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
    zoomBy(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
  moveBy((before[0] - now[0]) / (other ? 2 : 1), (before[1] - now[1]) / (other ? 2 : 1));
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
canvas.addEventListener("pointerleave", () => { pointer.textContent = ""; note.hidden = true; });
// Coordinates at the pointer, and what is there.
const ask = (event) => {
  const [x, y] = placeOf(event), inside = Math.hypot(x - view.width / 2, y - view.height / 2) <= Math.PI * view.scale;
  const [latitude, longitude] = degrees(under(x, y));
  const digits = Math.min(Math.max(Math.ceil(Math.log10(view.scale * RAD)), 1), 6);
  pointer.textContent = inside
    ? `${Math.abs(latitude).toFixed(digits)}° ${latitude < 0 ? "S" : "N"}, ${Math.abs(longitude).toFixed(digits)}° ${longitude < 0 ? "W" : "E"}` : "";
  const near = hot.map((one) => [Math.hypot(one.x - x, one.y - y), one]).sort((p, q) => p[0] - q[0])[0];
  note.hidden = !(near && near[0] < 14);
  if (note.hidden) return;
  const title = document.createElement("b");
  title.textContent = near[1].title;
  note.replaceChildren(title, near[1].text);
  note.style.left = `${Math.min(near[1].x + 12, Math.max(view.width - 252, 0))}px`;
  note.style.top = `${near[1].y > view.height - 110 ? near[1].y - 80 : near[1].y + 12}px`;
};
for (const button of document.querySelectorAll("[data-show]"))
  button.addEventListener("click", () => {
    showCandidate(candidates[button.dataset.show]);
    frame.scrollIntoView({ block: "nearest" });
  });
for (const button of document.querySelectorAll("[data-copy]"))
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(button.dataset.copy); } catch {
      // Without permission, the old way: select and copy.
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
for (const id of ["show-heat", "show-names"]) byId(id).addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });

let begun = false;
const resize = () => {
  view.width = canvas.clientWidth; view.height = canvas.clientHeight;
  canvas.width = Math.round(view.width * devicePixelRatio);
  canvas.height = Math.round(view.height * devicePixelRatio);
  if (begun) draw(); else { begun = true; showAll(); }
  moving = false; paint();
};
readColours();
new ResizeObserver(resize).observe(canvas);
resize();
