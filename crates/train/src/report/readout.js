// Shows values under the pointer. The page is complete without it.
"use strict";
for (const svg of document.querySelectorAll("svg.axes")) {
  const axis = (text) => {
    const [kind, low, high] = text.split(" ");
    const [a, b] = [Number(low), Number(high)];
    return (at) => (kind === "log" ? 10 ** (a + at * (b - a)) : a + at * (b - a));
  };
  const toX = axis(svg.dataset.x);
  const toY = axis(svg.dataset.y);
  const side = 10000;
  const lines = [...svg.querySelectorAll("path[data-name]")].map((path) => ({
    name: path.dataset.name,
    points: [...path.getAttribute("d").matchAll(/[ML](-?\d+) (-?\d+)/g)].map((m) => [Number(m[1]), Number(m[2])]),
  }));
  if (lines.length === 0) continue;
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", "0");
  cursor.setAttribute("y2", "100%");
  cursor.setAttribute("visibility", "hidden");
  svg.append(cursor);
  const box = document.createElement("div");
  box.className = "readout";
  box.hidden = true;
  svg.parentElement.append(box);

  const nearest = (points, at) => {
    let [low, high] = [0, points.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < at) low = middle;
      else high = middle;
    }
    return at - points[low][0] < points[high][0] - at ? points[low] : points[high];
  };
  const number = (x) => {
    const size = Math.abs(x);
    if (size >= 1e4 && size < 1e15) return Math.round(x).toLocaleString("en");
    return String(Number(x.toPrecision(4)));
  };
  const row = (text) => {
    const line = document.createElement("div");
    line.textContent = text;
    return line;
  };
  const show = (event) => {
    const frame = svg.getBoundingClientRect();
    const at = Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width));
    // The cursor stands on a point of the line that is closest.
    const found = lines.map((line) => [line.name, nearest(line.points, at * side)]);
    const x = found.map(([, p]) => p[0]).reduce((a, b) => (Math.abs(b - at * side) < Math.abs(a - at * side) ? b : a));
    const label = `${svg.dataset.xLabel}: ${number(Math.round(toX(x / side)))}`;
    // A series says something here only if it has a point here.
    const here = found.filter(([, p]) => Math.abs(p[0] - x) < side / 100);
    box.replaceChildren(row(label), ...here.map(([name, p]) => row(`${name}: ${number(toY(1 - p[1] / side))}`)));
    cursor.setAttribute("x1", `${x / side * 100}%`);
    cursor.setAttribute("x2", `${x / side * 100}%`);
    cursor.setAttribute("visibility", "visible");
    box.hidden = false;
    const left = (x / side) * frame.width;
    const before = left > frame.width / 2;
    box.style.left = before ? "auto" : `${left + 10}px`;
    box.style.right = before ? `${frame.width - left + 10}px` : "auto";
  };
  const hide = () => {
    box.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
