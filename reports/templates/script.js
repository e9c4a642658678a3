(function () {
'use strict';
var $ = function (id) { return document.getElementById(id); };
var make = function (tag, text, name) {
  var e = document.createElement(tag);
  if (text) e.textContent = text;
  if (name) e.className = name;
  return e;
};
var read = function (id) { return JSON.parse($(id).textContent); };

/* Light and dark: the system's choice until the button is used. */
var scheme = $('scheme'), root = document.documentElement;
scheme.hidden = false;
scheme.onclick = function () {
  var now = root.style.colorScheme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  root.style.colorScheme = now === 'dark' ? 'light' : 'dark';
};

/* A link to a cell opens it. */
function reveal() {
  var target = location.hash.length > 1 && $(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === 'DETAILS') { target.hidden = false; target.open = true; target.scrollIntoView(); }
}
addEventListener('hashchange', reveal);
document.addEventListener('click', function (event) {
  var link = event.target.closest && event.target.closest('a[href^="#"]');
  if (link && link.hash === location.hash) reveal();
});

/* Commands can be copied. */
document.querySelectorAll('.cmd').forEach(function (box) {
  var button = make('button', 'Copy');
  button.type = 'button';
  button.onclick = function () {
    var code = box.querySelector('code'), range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, older); else older();
    function older() { if (document.execCommand('copy')) done(); }
    function done() { button.textContent = 'Copied'; setTimeout(function () { button.textContent = 'Copy'; }, 1500); }
  };
  box.appendChild(button);
});

/* The matrix by other axes: places and texts were made with the report, only the layout changes. */
var data = read('pivot-data'), form = $('pivot');
var value = function (cell, axis) { return axis < 0 ? 0 : cell.v[axis]; };
function choice(label, names, chosen) {
  var box = make('label', label + ' '), select = make('select');
  names.forEach(function (name, index) { var o = make('option', name); o.value = index; select.appendChild(o); });
  select.value = chosen;
  box.appendChild(select);
  form.appendChild(box);
  return select;
}
function slot(cell, metric) {
  var s = cell.s[metric], link = make('a', '', 's' + (s[5] ? ' ' + s[5] : '') + (s[7] ? ' blind' : ''));
  link.href = '#' + cell.a;
  link.title = cell.n + (s[2] ? ': ' + s[2] + ' ' + data.metrics[metric].unit : '');
  link.style.setProperty('--b', s[1]);
  link.appendChild(make('b', s[0]));
  var small = make('small');
  if (s[3]) { var glyph = make('span', s[3]); glyph.setAttribute('aria-hidden', 'true'); small.append(glyph, ' '); }
  if (s[6]) { small.append(s[6] + ' '); if (s[4]) small.append(make('i', s[4], 'vh')); }
  else if (s[4] && s[4] !== s[0]) small.append(s[4]);
  if (s[7]) small.append(' ◌ blind');
  link.appendChild(small);
  return link;
}
function panel(title, cells, rows, columns, metric) {
  var figure = make('figure', '', 'panel'), caption = make('figcaption'), m = data.metrics[metric];
  if (title) caption.append(make('b', title), ' · ');
  caption.append(m.label + ' ');
  if (m.unit) caption.append(make('span', '(' + m.unit + ', ' + m.better + ')', 'soft'));
  var scroll = make('div', '', 'scroll'), table = make('table', '', 'matrix');
  scroll.tabIndex = 0;
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', 'Matrix table');
  var used = function (axis) {
    if (axis < 0) return [0];
    return data.axes[axis][1].map(function (_, i) { return i; }).filter(function (i) {
      return cells.some(function (c) { return c.v[axis] === i; });
    });
  };
  var name = function (axis, i) { return axis < 0 ? '' : data.axes[axis][1][i]; };
  var head = table.createTHead().insertRow(), corner = make('th', rows < 0 ? '' : data.axes[rows][0] + ' ');
  corner.scope = 'col';
  if (columns >= 0) corner.append(make('span', '\\ ' + data.axes[columns][0], 'soft'));
  head.appendChild(corner);
  var across = used(columns);
  across.forEach(function (i) { var th = make('th', name(columns, i)); th.scope = 'col'; head.appendChild(th); });
  var body = table.createTBody();
  used(rows).forEach(function (r) {
    var row = body.insertRow(), th = make('th', name(rows, r));
    th.scope = 'row';
    row.appendChild(th);
    across.forEach(function (c) {
      var place = row.insertCell();
      cells.forEach(function (cell) {
        if (value(cell, rows) === r && value(cell, columns) === c) place.appendChild(slot(cell, metric));
      });
    });
  });
  scroll.appendChild(table);
  figure.append(caption, scroll);
  return figure;
}
function layOut() {
  var rows = +rowSelect.value, columns = +columnSelect.value, metric = +metricSelect.value;
  if (rows === columns) columns = -1;
  var groups = new Map();
  data.cells.forEach(function (cell) {
    var title = data.axes.map(function (axis, i) { return i === rows || i === columns ? '' : axis[0] + ' ' + axis[1][cell.v[i]]; })
      .filter(Boolean).join(' · ');
    if (!groups.has(title)) groups.set(title, []);
    groups.get(title).push(cell);
  });
  var panels = [];
  groups.forEach(function (cells, title) { panels.push(panel(title, cells, rows, columns, metric)); });
  $('panels').replaceChildren.apply($('panels'), panels);
}
if (data.metrics.length && data.axes.length) {
  form.hidden = false;
  var names = data.axes.map(function (axis) { return axis[0]; });
  var rowSelect = choice('Rows', names, data.shown[0] || 0);
  var columnSelect = choice('Columns', names, data.shown[1] === null ? 0 : data.shown[1]);
  var metricSelect = choice('Figure', data.metrics.map(function (m) { return m.label; }), data.shown[2] || 0);
  var last = [rowSelect.value, columnSelect.value];
  form.onchange = function (event) {
    /* Choosing the other side's axis swaps the two. */
    if (rowSelect.value === columnSelect.value && names.length > 1) {
      if (event.target === rowSelect) columnSelect.value = last[0]; else rowSelect.value = last[1];
    }
    last = [rowSelect.value, columnSelect.value];
    layOut();
  };
  form.onsubmit = function (event) { event.preventDefault(); };
}

/* Tables sort by a click on their head; a third click restores the order of importance. */
document.querySelectorAll('table.sortable').forEach(function (table) {
  var body = table.tBodies[0], original = Array.from(body.rows), state = [-1, 0];
  var number = function (text) {
    var match = text.replace(/−/g, '-').match(/^[+-]?[\d.]+(e[+-]?\d+)?/);
    return match ? parseFloat(match[0]) : NaN;
  };
  Array.from(table.tHead.rows[0].cells).forEach(function (th, index) {
    var button = make('button', th.textContent), text = th.textContent;
    button.type = 'button';
    th.replaceChildren(button);
    button.onclick = function () {
      var turn = state[0] === index ? (state[1] + 1) % 3 : 1;
      state = [index, turn];
      Array.from(table.tHead.rows[0].cells).forEach(function (other) { other.removeAttribute('aria-sort'); });
      var rows = original.slice();
      if (turn) {
        th.setAttribute('aria-sort', turn === 1 ? 'ascending' : 'descending');
        rows.sort(function (a, b) {
          var x = a.cells[index].textContent, y = b.cells[index].textContent, p = number(x), q = number(y);
          var order = isNaN(p) || isNaN(q) ? (isNaN(p) ? 1 : 0) - (isNaN(q) ? 1 : 0) || x.localeCompare(y) : p - q;
          return turn === 1 ? order : -order;
        });
      }
      button.textContent = text + (turn === 1 ? ' ↑' : turn === 2 ? ' ↓' : '');
      body.append.apply(body, rows);
    };
  });
});

/* Cells by words, and without what is unchanged. */
var filter = $('filter'), cells = Array.from(document.querySelectorAll('details.cell'));
filter.hidden = cells.length < 2;
filter.onsubmit = function (event) { event.preventDefault(); };
filter.oninput = function () {
  var words = filter.q.value.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
  cells.forEach(function (cell) {
    var text = cell.firstElementChild.textContent.toLowerCase();
    var fits = words.every(function (word) { return text.indexOf(word) >= 0; });
    cell.hidden = !fits || (filter.calm.checked && cell.dataset.t === 'calm');
    if (!cell.hidden) shown += 1;
  });
  filter.querySelector('output').textContent = shown + ' of ' + cells.length + ' shown';
};
filter.elements.open.onclick = function () {
  var open = cells.some(function (cell) { return !cell.hidden && !cell.open; });
  cells.forEach(function (cell) { if (!cell.hidden) cell.open = open; });
  filter.elements.open.textContent = open ? 'Close all' : 'Open all';
};

/* The data as a file: the keys that the page leaves out of its lists are put back. */
function unpacked() {
  var all = read('report-data');
  var keys = { figures: ['metric', 'point', 'low', 'high', 'confidence', 'rounds', 'samples'], ops: ['class', 'count', 'seconds', 'flops', 'bytes'] };
  all.cells.forEach(function (cell) {
    Object.keys(keys).forEach(function (list) {
      cell[list] = cell[list].map(function (row) {
        var item = {};
        keys[list].forEach(function (key, i) { item[key] = row[i]; });
        return item;
      });
    });
  });
  if (all.history) all.history.trends.forEach(function (trend) {
    var power = Math.pow(10, trend.values.shift()), level = 0;
    trend.values = trend.values.map(function (step) { return step === null ? null : +((level += step) * power).toPrecision(12); });
  });
  return all;
}
var save = make('button', 'Download this report’s data (JSON)');
save.type = 'button';
save.onclick = function () {
  var link = make('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(unpacked(), null, 1)], { type: 'application/json' }));
  link.download = 'stepwatch-report.json';
  link.click();
};
$('download').replaceChildren(save);
reveal();
})();
