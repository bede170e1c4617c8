// The page of the studio: see studio.py, which answers its messages. Nothing is loaded from outside.
const SIZE = 256, SCALE = 3, KEPT = 12, PIECE = 1 << 20, REACH = 9;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

const labelled = (words, input) => make('label', {}, words + ' ', input);
const number = (value, min, max, step = 1) => make('input', { type: 'number', value, min, max, step });
const range = (value, min, max) => make('input', { type: 'range', min, max, value });
const sheet = (side = SIZE) => make('canvas', { width: side, height: side });
const grey = (value) => 0xff000000 | value << 16 | value << 8 | value;  // one pixel of an ImageData

function render({ model, el }) {
  const { anatomies, words, modalities, notice, megabytes } = model.get('menus');
  const now = { bits: new Uint8Array(SIZE * SIZE), ellipse: null };  // the drawing
  const state = { tool: 'pencil', row: 0, last: Date.now(), past: [], future: [], gallery: [], zoom: 1, point: null };
  const asked = new Map();  // number of a request -> what was asked, and when the hand moved

  // The parts of the page
  const canvas = make('canvas', { width: SIZE * SCALE, height: SIZE * SCALE, tabIndex: 0, role: 'application',
    'aria-label': 'Edge map: draw here. With the tumour chosen, arrow keys move it, + and - resize it.' });
  const status = make('div', { className: 'status', role: 'status' });
  const alarm = make('div', { className: 'alarm', role: 'alert' });
  const left = make('span'), bar = make('progress', { max: 1, 'aria-label': 'drawing' });
  const waiting = make('div', { className: 'row', hidden: true }, bar, left, button('Cancel', () => say('cancel')));
  const width = range(1, 1, 9), shade = range(35, 0, 100), window_ = range(100, 5, 100), level = range(50, 0, 100);
  const anatomy = make('select', {}, ...anatomies.map((name, place) => new Option(name, place)));
  const plane = range(0, 0, 1), planes = make('label', { hidden: true }, 'plane ', plane);
  const path = make('input', { type: 'text', placeholder: 'folder of a case on this machine' });
  const upload = make('input', { type: 'file', multiple: true, accept: '.nii,.gz,.png,.bmp,.tif,.tiff,.gif' });
  const core = make('input', { type: 'checkbox' }), compare = make('input', { type: 'checkbox' });
  const refine = make('input', { type: 'checkbox', checked: true });
  const steps = number(25, 1, 100), guidance = number(1.5, 0, 8, 0.5);
  const menus = Object.entries(words).map(([name, said]) => [name, make('select', {}, new Option('not said', ''),
    ...said.map((word, place) => new Option(word, place)))]);
  const rows = ['A', 'B'].map((name) => ({ name, text: make('textarea', { rows: 3 }), seed: number(0, 0, 2 ** 31 - 1) }));
  const [first, second] = rows.map(({ name, text, seed }) => make('div', { className: 'words' },
    labelled(`sentence ${name}`, text), labelled(`seed ${name}`, seed)));
  const pictures = make('div', { className: 'pictures' }), gallery = make('div', { className: 'row gallery' });
  const save = button('download', () => say('zip', { number: state.shown.number }), 'download PNG and NIfTI, one zip');
  const tools = Object.fromEntries(['pencil', 'eraser', 'tumour'].map((name) => [name, button(name, () => choose(name))]));
  const undo = button('undo', () => step(state.past, state.future)), redo = button('redo', () => step(state.future, state.past));
  const root = make('article', { className: 'studio', 'data-lm-suppress-shortcuts': 'true' },
    make('section', { className: 'side' },
      make('fieldset', {}, make('legend', {}, 'Anatomy'), labelled('example', anatomy),
        labelled(`or a real case (NIfTI) or edge map, ${megabytes} MB at most`, upload), labelled('or', path), planes),
      make('fieldset', {}, make('legend', {}, 'Words'),
        make('div', { className: 'menus' }, ...menus.map(([name, menu]) => labelled(name === 'idh' ? 'IDH' : name, menu))),
        first, labelled('compare with B', compare), second),
      make('details', {}, make('summary', {}, 'Refining'), labelled('refine when the hand rests', refine),
        labelled('steps', steps), labelled('guidance', guidance))),
    make('section', { className: 'drawing' },
      make('div', { className: 'row', role: 'toolbar', 'aria-label': 'tools' }, ...Object.values(tools), undo, redo,
        button('clear', () => change(() => { now.bits.fill(0); now.ellipse = null; })), labelled('width', width)),
      canvas, make('div', { className: 'row' }, labelled('anatomy', shade), labelled('core', core),
        button('remove tumour', () => change(() => { now.ellipse = null; })),
        button('take out its own', () => change(() => now.bits.forEach((_, i) => { if (state.own?.[i]) now.bits[i] = 0; })),
          'take out the edges of the tumour that this anatomy has'))),
    make('section', { className: 'results' },
      make('div', { className: 'row' }, button('+', () => zoom(2), 'zoom in'), button('−', () => zoom(0.5), 'zoom out'),
        labelled('window', window_), labelled('level', level), save, button('full screen', () => root.requestFullscreen?.())),
      pictures, status), make('section', { className: 'foot' }, waiting, alarm, gallery));
  el.replaceChildren(root);

  function button(text, action, title = '') {
    return make('button', { type: 'button', textContent: text, title, onclick: action, ...(title && { 'aria-label': title }) });
  }
  function say(kind, content = {}, buffers = []) {
    alarm.textContent = '';
    model.send({ kind, ...content }, undefined, buffers);
  }

  // Asking: one request is under way while the hand moves; the newest state follows when it has been answered.
  function ask(rest) {
    state.moved = rest ? performance.now() : state.moved;
    if (!state.ready || (!rest && state.under)) { state.behind = !rest; return; }
    const request = { number: ++state.last, rest, refine: rest && refine.checked, ellipse: now.ellipse, source: state.name,
      settings: rows.slice(0, compare.checked ? 2 : 1).map(({ text, seed }) => [text.value, Number(seed.value)]),
      steps: Number(steps.value), guidance: Number(guidance.value) };
    state.under = request.number;
    state.behind = false;
    if (asked.size > 2 * KEPT) asked.delete(asked.keys().next().value);
    asked.set(request.number, { ...request, moved: state.moved, bits: now.bits.slice(), menus: menus.map(([, m]) => m.value) });
    say('draw', request, [now.bits.slice().buffer]);
  }
  function answered(number) {
    if (number !== state.under) return;
    state.under = null;
    if (state.behind) ask(false);
  }

  // Drawing
  const copy = () => ({ bits: now.bits.slice(), ellipse: now.ellipse && { ...now.ellipse } });
  function remember() {
    state.past = [...state.past.slice(-49), copy()];
    state.future = [];
  }
  function change(action) {
    remember();
    action();
    paint();
    ask(true);
  }
  function step(from, to) {
    if (!from.length) return;
    to.push(copy());
    Object.assign(now, from.pop());
    paint();
    ask(true);
  }
  function choose(name) {
    state.tool = name;
    for (const [other, tool] of Object.entries(tools)) tool.setAttribute('aria-pressed', other === name);
    paint();
  }
  function line([x0, y0], [x1, y1]) {
    const radius = width.value / 2 * (state.tool === 'eraser' ? 4 : 1), value = state.tool === 'pencil' ? 255 : 0;
    const count = Math.ceil(2 * Math.hypot(x1 - x0, y1 - y0)) + 1, reach = Math.ceil(radius);
    for (let i = 0; i <= count; i++) {
      const x = Math.floor(x0 + (x1 - x0) * i / count), y = Math.floor(y0 + (y1 - y0) * i / count);
      for (let v = Math.max(0, y - reach); v <= Math.min(SIZE - 1, y + reach); v++) {
        for (let u = Math.max(0, x - reach); u <= Math.min(SIZE - 1, x + reach); u++) {
          if ((u - x) ** 2 + (v - y) ** 2 < radius ** 2 + 0.01) now.bits[v * SIZE + u] = value;
        }
      }
    }
  }
  function handles({ x, y, width, height, angle }) {
    const a = angle * Math.PI / 180;
    return { size: [x + width / 2 * Math.cos(a), y + width / 2 * Math.sin(a)],
      height: [x - height / 2 * Math.sin(a), y + height / 2 * Math.cos(a)] };
  }
  const distance = ([x0, y0], [x1, y1]) => Math.hypot(x1 - x0, y1 - y0);
  const limited = (value) => Math.min(120, Math.max(8, value));
  function grab(point) {
    now.ellipse ??= { x: point[0], y: point[1], width: 48, height: 36, angle: 0, core: core.checked ? 0.5 : 0 };
    const near = Object.entries(handles(now.ellipse)).find(([, place]) => distance(place, point) < REACH);
    state.grip = near?.[0] ?? 'place';
    const inside = distance([now.ellipse.x, now.ellipse.y], point) < now.ellipse.width / 2;
    state.offset = inside ? [now.ellipse.x - point[0], now.ellipse.y - point[1]] : [0, 0];
    drag(point);
  }
  function drag(point) {
    const ellipse = now.ellipse, [dx, dy] = [point[0] - ellipse.x, point[1] - ellipse.y];
    if (state.grip === 'place') [ellipse.x, ellipse.y] = [point[0] + state.offset[0], point[1] + state.offset[1]];
    else if (state.grip === 'height') ellipse.height = limited(2 * Math.hypot(dx, dy));
    else Object.assign(ellipse, { width: limited(2 * Math.hypot(dx, dy)), angle: Math.atan2(dy, dx) * 180 / Math.PI });
  }
  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * SIZE, (event.clientY - box.top) / box.height * SIZE];
  }
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    remember();
    state.pen = place(event);
    if (state.tool === 'tumour') grab(state.pen);
    canvas.onpointermove(event);
  };
  canvas.onpointermove = (event) => {
    if (!state.pen) return;
    for (const one of [...(event.getCoalescedEvents?.() ?? []), event]) {
      const point = place(one);
      if (state.tool === 'tumour') drag(point);
      else line(state.pen, point);
      state.pen = point;
    }
    state.moved = performance.now();
    paint();
    ask(false);
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (!state.pen) return;
    state.pen = null;
    ask(true);
  };
  root.onkeydown = (event) => {
    const key = event.key.toLowerCase(), moves = { arrowleft: [-2, 0], arrowright: [2, 0], arrowup: [0, -2], arrowdown: [0, 2] };
    if ((event.ctrlKey || event.metaKey) && ['z', 'y'].includes(key) && event.target.tagName !== 'TEXTAREA') {
      (key === 'y' || event.shiftKey ? redo : undo).click();
    } else if (event.target === canvas && now.ellipse && (moves[key] || ['+', '-'].includes(key))) {
      const [dx, dy] = moves[key] ?? [0, 0], more = { '+': 2, '-': -2 }[key] ?? 0, e = now.ellipse;
      change(() => { now.ellipse = { ...e, x: e.x + dx, y: e.y + dy, width: limited(e.width + more), height: limited(e.height + more) }; });
    } else return;
    event.preventDefault();
  };

  // Painting
  const lines = sheet(), source = sheet();
  function draw(target, colour) {  // 256 x 256 pixels, each as `colour` says
    const image = new ImageData(SIZE, SIZE), pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = colour(i);
    target.getContext('2d').putImageData(image, 0, 0);
    return target;
  }
  const picture = (greys) => draw(sheet(), (i) => grey(greys[i]));
  function paint() {
    state.frame ??= requestAnimationFrame(painted);
  }
  function painted() {
    state.frame = null;
    const brush = canvas.getContext('2d'), ellipse = now.ellipse;
    const path = (share) => {
      const shape = new Path2D(), { x, y, width, height, angle } = ellipse;
      shape.ellipse(x * SCALE, y * SCALE, share * width / 2 * SCALE, share * height / 2 * SCALE, angle * Math.PI / 180, 0, 7);
      return shape;
    };
    draw(lines, (i) => now.bits[i] ? 0xff8ae2ff : 0);
    brush.clearRect(0, 0, canvas.width, canvas.height);
    const under = () => {
      brush.globalAlpha = shade.value / 100;
      if (state.picture) brush.drawImage(state.picture, 0, 0, canvas.width, canvas.height);
      brush.globalAlpha = 1;
    };
    under();
    brush.imageSmoothingEnabled = false;
    brush.drawImage(lines, 0, 0, canvas.width, canvas.height);
    brush.imageSmoothingEnabled = true;
    if (!ellipse) return;
    brush.save();
    brush.clip(path(1));
    brush.clearRect(0, 0, canvas.width, canvas.height);
    under();
    brush.restore();
    Object.assign(brush, { strokeStyle: '#ffe28a', fillStyle: '#9cc3ee', lineWidth: SCALE });
    for (const share of ellipse.core ? [1, ellipse.core] : [1]) brush.stroke(path(share));
    if (state.tool !== 'tumour') return;
    for (const [x, y] of Object.values(handles(ellipse))) brush.fillRect((x - 3) * SCALE, (y - 3) * SCALE, 6 * SCALE, 6 * SCALE);
  }
  function look() {  // window, level, zoom and the marked point of all pictures
    const side = SIZE / state.zoom, [px, py] = state.point ?? [SIZE / 2, SIZE / 2];
    const start = (p) => Math.min(SIZE - side, Math.max(0, p - side / 2)), [x0, y0] = [start(px), start(py)];
    const low = (level.value - window_.value / 2) * 2.55, factor = 100 / window_.value;
    const table = Array.from({ length: SIZE }, (_, value) => grey(Math.min(255, Math.max(0, (value - low) * factor))));
    state.view = { side, x0, y0 };
    for (const { values, shown, caption, title } of state.pictures ?? []) {
      const brush = shown.getContext('2d');
      brush.drawImage(draw(source, (i) => table[values[i]]), x0, y0, side, side, 0, 0, shown.width, shown.height);
      caption.textContent = title;
      if (!state.point) continue;
      caption.textContent += `: ${(values[Math.floor(py) * SIZE + Math.floor(px)] / 255).toFixed(2)} at ${Math.floor(px)}, ${Math.floor(py)}`;
      const [x, y] = [(px - x0) / side * shown.width, (py - y0) / side * shown.width];
      Object.assign(brush, { strokeStyle: '#6fd0ff', lineWidth: 2 });
      brush.strokeRect(x - 6, y - 6, 12, 12);
    }
  }
  function zoom(factor) {
    state.zoom = Math.min(8, Math.max(1, state.zoom * factor));
    look();
  }
  function show(entry) {
    const { settings, greys } = entry;
    state.shown = entry;
    pictures.style.setProperty('--columns', settings.length > 1 ? 4 : 2);
    root.classList.toggle('two', settings.length > 1);
    state.pictures = greys.map((values, i) => {
      const title = `${settings.length > 1 ? rows[Math.floor(i / 4)].name + ', ' : ''}${modalities[i % 4]}`;
      const about = `${settings[Math.floor(i / 4)][0]}, as ${modalities[i % 4]} (${notice})`;
      const shown = make('canvas', { width: 512, height: 512, role: 'img', 'aria-label': about, title: 'click: grey value' });
      shown.onclick = (event) => {
        const box = shown.getBoundingClientRect(), { side, x0, y0 } = state.view;
        const clicked = [x0 + (event.clientX - box.left) / box.width * side, y0 + (event.clientY - box.top) / box.height * side];
        state.point = clicked.map((value) => Math.min(SIZE - 1, Math.max(0, value)));
        look();
      };
      shown.ondblclick = () => zoom(2);
      return { values, shown, title, caption: make('figcaption') };
    });
    pictures.replaceChildren(...state.pictures.map(({ shown, caption }) => make('figure', {}, shown, caption)));
    look();
  }
  function keep(entry) {
    state.gallery = [entry, ...state.gallery.filter((other) => other.number !== entry.number)].slice(0, KEPT);
    gallery.replaceChildren(...state.gallery.map((kept, i) => {
      const small = sheet(64), back = make('button', { type: 'button', 'aria-label': `drawing ${i + 1} of the last ones` }, small);
      small.getContext('2d').drawImage(picture(kept.greys[2]), 0, 0, 64, 64);
      back.onclick = () => {
        remember();
        Object.assign(now, { bits: kept.bits.slice(), ellipse: kept.ellipse && { ...kept.ellipse } });
        Object.assign(state, { picture: kept.picture, own: kept.own, name: kept.source });
        compare.checked = kept.settings.length > 1;
        second.hidden = !compare.checked;
        kept.settings.forEach(([text, seed], place) => { rows[place].text.value = text; rows[place].seed.value = seed; });
        menus.forEach(([, menu], place) => { menu.value = kept.menus[place]; });
        paint();
        show(kept);
      };
      return back;
    }));
  }

  // What Python says
  const planes_of = (view) => Array.from({ length: view.byteLength / SIZE ** 2 }, (_, i) =>
    new Uint8Array(view.buffer, view.byteOffset + i * SIZE ** 2, SIZE ** 2).slice());
  const answers = {
    loaded({ steps: default_, guidance: scale, findings }) {
      steps.value = default_;
      guidance.value = scale;
      menus.slice(1).forEach(([, menu]) => { menu.parentNode.hidden = !findings; });
      state.ready = true;
      speak();
    },
    anatomy({ name, idh, planes: range_ }, [view]) {
      const [values, edges, emptied] = planes_of(view), same = range_ && !range_.opened;
      remember();
      Object.assign(state, { picture: picture(values), name, own: edges.map((bit, i) => bit && !emptied[i]) });
      Object.assign(now, { bits: edges, ellipse: same ? now.ellipse : null });
      planes.hidden = !range_;
      if (range_) Object.assign(plane, { min: range_.first, max: range_.last, value: range_.plane });
      if (!same) menus[0][1].value = idh ?? '';
      status.textContent = name;
      paint();
      speak();
    },
    sentence({ text }) {
      rows[state.row].text.value = text;
      ask(true);
    },
    progress({ done, left: seconds, number }) {
      if (!asked.has(number)) return;
      waiting.hidden = waiting.hidden && seconds < 1;
      bar.value = done;
      left.textContent = ` ${Math.ceil(seconds)} s left `;
    },
    drawn({ number, steps: done, seconds }, [view]) {
      const request = asked.get(number);
      if (!request) return;  // of another page
      waiting.hidden = true;
      if (number < (state.shown?.number ?? 0)) return;
      const entry = { ...request, picture: state.picture, own: state.own, greys: planes_of(view) };
      show(entry);
      if (request.rest) keep(entry);
      else asked.delete(number);
      save.disabled = !request.rest;
      const delay = (performance.now() - request.moved) / 1000;
      status.textContent = `${notice}. ${done} steps in ${seconds.toFixed(1)} s, ${delay.toFixed(1)} s after the hand.`;
      root.dataset.delays = `${root.dataset.delays ?? ''} ${number === state.under ? delay.toFixed(2) : ''}`;
      answered(number);
    },
    stopped() { waiting.hidden = true; },
    error({ text, number }) {
      alarm.textContent = text;
      waiting.hidden = true;
      answered(number);
    },
    zip(_, [packed]) {
      const link = make('a', { href: URL.createObjectURL(new Blob([packed])), download: 'synthetic.zip' });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    },
  };
  const hear = (message, buffers) => answers[message.kind](message, buffers);

  // What the reader chooses
  function speak() {
    if (!state.ready || !state.name) return;
    const said = menus.filter(([, menu]) => menu.value !== '' && !menu.parentNode.hidden);
    say('words', { words: Object.fromEntries(said.map(([name, menu]) => [name, Number(menu.value)])) });
  }
  async function send(files) {
    const size = files.reduce((sum, file) => sum + file.size, 0);
    if (size > megabytes * 2 ** 20) {
      alarm.textContent = `Expected ${megabytes} MB at most, got ${Math.ceil(size / 2 ** 20)} MB: give the path of the folder instead.`;
      return;
    }
    status.textContent = 'Reading the files …';
    for (const [i, file] of files.entries()) {
      for (let start = 0; start < Math.max(1, file.size); start += PIECE) {
        const content = await file.slice(start, start + PIECE).arrayBuffer();
        const last = i === files.length - 1 && start + PIECE >= file.size;
        say('file', { name: file.name, first: i === 0 && start === 0, last }, [content]);
      }
    }
  }
  anatomy.onchange = () => say('anatomy', { place: Number(anatomy.value) });
  upload.onchange = () => { send([...upload.files]); upload.value = ''; };
  path.onchange = () => { say('path', { path: path.value }); status.textContent = 'Reading the files …'; };
  plane.onchange = () => say('plane', { plane: Number(plane.value) });
  shade.oninput = paint;
  window_.oninput = level.oninput = look;
  core.onchange = () => change(() => { if (now.ellipse) now.ellipse = { ...now.ellipse, core: core.checked ? 0.5 : 0 }; });
  menus.forEach(([, menu]) => { menu.onchange = speak; });
  rows.forEach(({ text, seed }, place) => {
    text.onfocus = () => { state.row = place; };
    text.onchange = seed.onchange = () => ask(true);
  });
  compare.onchange = () => {
    second.hidden = !compare.checked;
    state.row = compare.checked ? 1 : 0;
    if (!rows[1].text.value) Object.assign(rows[1].text, { value: rows[0].text.value });
    ask(true);
  };
  refine.onchange = steps.onchange = guidance.onchange = () => ask(true);
  second.hidden = save.disabled = true;
  status.textContent = 'The weights are being loaded …';
  choose('pencil');
  model.on('msg:custom', hear);
  say('ready');
  return () => model.off('msg:custom', hear);
}

export default { render };
