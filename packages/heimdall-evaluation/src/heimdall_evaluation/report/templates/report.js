// The map: buttons, keys, Ctrl with the wheel and a double click magnify it, dragging moves it.
// Marks and labels keep their size, so that what is crowded comes apart.
for (const frame of document.querySelectorAll("#map .frame")) {
  const map = frame.querySelector("svg.figure");
  const whole = map.viewBox.baseVal, width = whole.width, height = whole.height;
  const bar = frame.querySelector(".bar-of-scale");
  const view = { x: 0, y: 0, zoom: 1 };
  const most = 1000; // two hundred kilometres become two hundred metres

  const show = () => {
    view.x = Math.min(Math.max(view.x, 0), width * (1 - 1 / view.zoom));
    view.y = Math.min(Math.max(view.y, 0), height * (1 - 1 / view.zoom));
    map.setAttribute("viewBox",
      `${view.x} ${view.y} ${width / view.zoom} ${height / view.zoom}`);
    frame.classList.toggle("zoomed", view.zoom > 1);
    for (const mark of map.querySelectorAll("defs > path"))
      mark.setAttribute("transform", `scale(${1 / view.zoom})`);
    for (const label of map.querySelectorAll("[data-at]")) {
      const [x, y] = label.dataset.at.split(",").map(Number);
      label.setAttribute("transform", `translate(${x * width} ${y * height}) ` +
        `scale(${1 / view.zoom}) translate(${-x * width} ${-y * height})`);
    }
    scale();
  };
  const scale = () => {
    const kmPerPixel = map.dataset.km / view.zoom / map.clientWidth;
    const wanted = 120 * kmPerPixel, decade = 10 ** Math.floor(Math.log10(wanted));
    const length = Math.max(...[1, 2, 5].map((m) => m * decade).filter((km) => km <= wanted));
    bar.style.width = `${length / kmPerPixel}px`;
    bar.textContent = length < 1 ? `${+(1000 * length).toPrecision(1)} m` : `${length} km`;
  };
  // (x, y) are shares of what is seen: the point that stays where it is.
  const zoomBy = (factor, x = 0.5, y = 0.5) => {
    const zoom = Math.min(Math.max(view.zoom * factor, 1), most);
    view.x += x * width * (1 / view.zoom - 1 / zoom);
    view.y += y * height * (1 / view.zoom - 1 / zoom);
    view.zoom = zoom;
    show();
  };
  const moveBy = (x, y) => {
    view.x += x * width / view.zoom;
    view.y += y * height / view.zoom;
    show();
  };
  const at = (event) => {
    const box = map.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  const acts = {
    "+": () => zoomBy(1.6), "=": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6), 0: () => zoomBy(0),
    ArrowLeft: () => moveBy(-0.15, 0), ArrowRight: () => moveBy(0.15, 0),
    ArrowUp: () => moveBy(0, -0.15), ArrowDown: () => moveBy(0, 0.15),
  };
  frame.addEventListener("keydown", (event) => {
    const act = acts[event.key];
    if (act && !event.ctrlKey && !event.metaKey) { act(); event.preventDefault(); }
  });
  for (const button of frame.querySelectorAll("button"))
    button.addEventListener("click", () => acts[button.dataset.key]());
  map.addEventListener("dblclick", (event) => { zoomBy(2, ...at(event)); event.preventDefault(); });
  map.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    zoomBy(Math.exp(-event.deltaY / 200), ...at(event));
    event.preventDefault();
  }, { passive: false });

  const fingers = new Map();
  map.addEventListener("pointerdown", (event) => {
    if (view.zoom === 1 && event.pointerType === "touch" && event.isPrimary) {
      fingers.set(event.pointerId, at(event)); // one finger scrolls the page
      return;
    }
    fingers.set(event.pointerId, at(event));
    map.setPointerCapture(event.pointerId);
  });
  map.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const now = at(event), before = fingers.get(event.pointerId);
    const other = [...fingers].find(([id]) => id !== event.pointerId);
    fingers.set(event.pointerId, now);
    if (other) {
      const apart = (point) => Math.hypot(point[0] - other[1][0], point[1] - other[1][1]) || 1e-6;
      zoomBy(apart(now) / apart(before), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
    }
    moveBy((before[0] - now[0]) / (other ? 2 : 1), (before[1] - now[1]) / (other ? 2 : 1));
  });
  for (const name of ["pointerup", "pointercancel"])
    map.addEventListener(name, (event) => fingers.delete(event.pointerId));
  new ResizeObserver(scale).observe(map);
  show();
}

// The sessions as files, which the page holds compressed.
for (const button of document.querySelectorAll("button[data-file]"))
  button.addEventListener("click", async () => {
    const held = document.getElementById(`file-${button.dataset.file}`).textContent;
    const bytes = Uint8Array.from(atob(held), (character) => character.charCodeAt(0));
    const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await new Response(text).blob());
    link.download = `${document.title}.${button.dataset.file}`;
    link.click();
  });
