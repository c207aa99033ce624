/* The map: dots on a canvas that are pointed at, enlarged, moved and caught in a lasso, by mouse, touch or keys. */

const DOT_BINS = 64;
const NEAR = 14; /* pixels at which a dot counts as pointed at */
const MOST_ZOOM = 200;

/** A colour between stops of "#rrggbb", at 0 to 1. */
function between(stops, at) {
  const place = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const channel = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => Math.round(channel(stops[low], i) + (place - low) * (channel(stops[low + 1], i) - channel(stops[low], i))));
  return `rgb(${mixed.join(" ")})`;
}

/** Whether (x, y) lies within a polygon of [x, y]. */
function inside(polygon, x, y) {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ax, ay] = polygon[i];
    const [bx, by] = polygon[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

/**
 * A map of dots.
 *   canvas: to draw on; stretched by the page.
 *   x, y: coordinates of the dots, 0 to 1, y upwards.
 *   on: { point(index or -1, left, top), choose(index), select(array of indices) } - what the reader did.
 */
function dotMap(canvas, x, y, on) {
  const count = x.length;
  const view = { zoom: 1, x: 0.5, y: 0.5 };
  const drawn = { bins: new Uint8Array(count), colours: ["#888"], order: [...x.keys()], chosen: null, cursor: -1 };
  let lasso = null;
  let moving = false;
  let waiting = false;
  let ink = "#000";

  let w = canvas.clientWidth;
  let h = canvas.clientHeight;
  const unit = () => Math.max(Math.min(w, h) - 24, 1) * view.zoom;
  const left = (i) => w / 2 + (x[i] - view.x) * unit();
  const top = (i) => h / 2 - (y[i] - view.y) * unit();

  function dot(colour, radius, ratio) {
    const side = Math.ceil(2 * radius * ratio) + 2;
    const made = element("canvas", { width: side, height: side });
    const pen = made.getContext("2d");
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(side / 2, side / 2, radius * ratio, 0, 2 * Math.PI);
    pen.fill();
    return made;
  }

  function paint() {
    waiting = false;
    w = canvas.clientWidth;
    h = canvas.clientHeight;
    if (!w || !h) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const radius = Math.min(6, Math.max(1.4, 60 / Math.sqrt(count)) * Math.pow(view.zoom, 0.35));
    const dots = drawn.colours.map((colour) => dot(colour, radius, ratio));
    const half = dots[0].width / 2;
    const scale = unit() * ratio;
    const shift = [(w * ratio) / 2 - view.x * scale - half, (h * ratio) / 2 + view.y * scale - half];
    for (const loud of drawn.chosen ? [false, true] : [true]) {
      pen.globalAlpha = loud ? 0.9 : 0.13;
      for (const i of drawn.order) {
        if (drawn.chosen && drawn.chosen.has(i) !== loud) continue;
        const px = shift[0] + x[i] * scale;
        const py = shift[1] - y[i] * scale;
        if (px > -2 * half && py > -2 * half && px < canvas.width && py < canvas.height) pen.drawImage(dots[drawn.bins[i]], px, py);
      }
    }
    pen.globalAlpha = 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.strokeStyle = ink;
    if (drawn.cursor >= 0) {
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(left(drawn.cursor), top(drawn.cursor), radius + 4, 0, 2 * Math.PI);
      pen.stroke();
    }
    if (lasso && lasso.length > 1) {
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 4]);
      pen.beginPath();
      lasso.forEach(([px, py], k) => (k ? pen.lineTo(px, py) : pen.moveTo(px, py)));
      pen.closePath();
      pen.stroke();
      pen.setLineDash([]);
    }
  }

  function redraw() {
    if (!waiting) requestAnimationFrame(paint);
    waiting = true;
  }

  function nearest(px, py) {
    let best = -1;
    let least = NEAR * NEAR;
    for (let i = 0; i < count; i++) {
      if (drawn.chosen && !drawn.chosen.has(i)) continue;
      const off = (left(i) - px) ** 2 + (top(i) - py) ** 2;
      if (off < least) {
        least = off;
        best = i;
      }
    }
    return best;
  }

  function point(i) {
    drawn.cursor = i;
    on.point(i, i < 0 ? 0 : left(i), i < 0 ? 0 : top(i));
    redraw();
  }

  function zoom(factor, px = w / 2, py = h / 2) {
    const before = [(px - w / 2) / unit() + view.x, (h / 2 - py) / unit() + view.y];
    view.zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
    view.x = before[0] - (px - w / 2) / unit();
    view.y = before[1] - (h / 2 - py) / unit();
    keep();
  }

  function move(dx, dy) {
    view.x -= dx / unit();
    view.y += dy / unit();
    keep();
  }

  /* Leave no reader with an empty map. */
  function keep() {
    if (view.zoom === 1) view.x = view.y = 0.5;
    view.x = Math.min(1, Math.max(0, view.x));
    view.y = Math.min(1, Math.max(0, view.y));
    touch();
    redraw();
  }

  /* One finger scrolls the page while there is nothing to move. */
  function touch() {
    canvas.style.touchAction = view.zoom === 1 && canvas.classList.contains("moves") ? "pan-y" : "none";
  }

  /* The next dot in a direction from the cursor: near, and hardly aside. */
  function step(dx, dy) {
    const from = drawn.cursor;
    if (from < 0) {
      const order = [...x.keys()].sort((a, b) => (x[a] - view.x) ** 2 + (y[a] - view.y) ** 2 - (x[b] - view.x) ** 2 - (y[b] - view.y) ** 2);
      return point(order[0]);
    }
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < count; i++) {
      const along = (x[i] - x[from]) * dx + (y[i] - y[from]) * dy;
      const aside = Math.abs((x[i] - x[from]) * dy - (y[i] - y[from]) * dx);
      const cost = along + 3 * aside;
      if (along > 0 && aside <= along && cost < least && (!drawn.chosen || drawn.chosen.has(i))) {
        least = cost;
        best = i;
      }
    }
    if (best < 0) return undefined;
    point(best);
    if (left(best) < 0 || left(best) > w || top(best) < 0 || top(best) > h) {
      view.x = x[best];
      view.y = y[best];
      keep();
      point(best);
    }
    return undefined;
  }

  const fingers = new Map();
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
    const moves = canvas.classList.contains("moves") !== event.shiftKey;
    lasso = fingers.size === 1 && !moves ? [place(event)] : null;
    moving = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = place(event);
    if (!fingers.has(event.pointerId)) {
      point(nearest(...here));
      return;
    }
    const before = fingers.get(event.pointerId);
    const step = [here[0] - before[0], here[1] - before[1]];
    if (!moving && Math.hypot(...step) < 4) return;
    moving = true;
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (others.length) {
      const apart = (at) => Math.hypot(at[0] - others[0][0], at[1] - others[0][1]);
      zoom(apart(here) / Math.max(apart(before), 1), (here[0] + others[0][0]) / 2, (here[1] + others[0][1]) / 2);
    } else if (lasso) lasso.push(here);
    else move(...step);
    fingers.set(event.pointerId, here);
    redraw();
  });
  function lift(event) {
    if (!fingers.delete(event.pointerId)) return;
    const caught = lasso;
    lasso = null;
    if (!moving && event.type === "pointerup") {
      const found = nearest(...place(event));
      point(found);
      if (found >= 0) on.choose(found);
    } else if (caught && caught.length > 2) {
      const found = [];
      for (let i = 0; i < count; i++) if (inside(caught, left(i), top(i))) found.push(i);
      on.select(found);
    }
    redraw();
  }
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => {
    if (!fingers.size) point(-1);
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return; /* the page scrolls on */
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), ...place(event));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in steps && event.shiftKey) move(-40 * steps[event.key][0], 40 * steps[event.key][1]);
    else if (event.key in steps) step(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") zoom(0);
    else if (event.key === "Enter" && drawn.cursor >= 0) on.choose(drawn.cursor);
    else if (event.key === " " && drawn.cursor >= 0) {
      const far = (i) => (x[i] - x[drawn.cursor]) ** 2 + (y[i] - y[drawn.cursor]) ** 2;
      on.select([...x.keys()].sort((a, b) => far(a) - far(b)).slice(0, 50));
    } else if (event.key === "Escape") on.select([]);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(redraw).observe(canvas);

  return {
    zoom,
    /** Whether a drag moves the map; else it draws a lasso. */
    moves(yes) {
      canvas.classList.toggle("moves", yes);
      touch();
    },
    point,
    redraw,
    /** Paint at once; for paper, which waits for no frame. */
    paint,
    /** Colour each dot by its bin; dots are drawn in the given order, the last on top. */
    colour(bins, colours, order, stroke) {
      Object.assign(drawn, { bins, colours, order });
      ink = stroke;
      redraw();
    },
    /** Set these dots off from the others; none: all alike. */
    choose(indices) {
      drawn.chosen = indices.length ? new Set(indices) : null;
      redraw();
    },
  };
}
